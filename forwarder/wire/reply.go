// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// Reply is an upstream's reply that [ParseReply] has checked. It is not modified
// afterwards, so it may be read concurrently.
type Reply struct {
	// Msg has header, question and records, without OPT and TSIG. It aliases the
	// parsed message.
	Msg  []byte
	QEnd int      // offset after the question
	TTLs []uint16 // offsets in Msg of every record's TTL

	// Rcode includes the eight bits in OPT (RFC 6891 §6.1.3). BADVERS and BADCOOKIE
	// concern the hop to the upstream: for the caller they are a failure, and they are
	// not passed on to clients.
	Rcode uint16

	// TTL is how many seconds the reply may be cached; 0 means not at all. It is the
	// lowest TTL of its records, and for a negative reply also at most its SOA's MINIMUM
	// (RFC 2308 §5).
	TTL uint32
	// Negative means NXDOMAIN, or no record of the requested type (NODATA), possibly
	// after a chain of CNAMEs.
	Negative bool
	// Stale means that the reply is used after its TTL has expired (RFC 8767), because
	// there is no newer one. ParseReply leaves it false; a cache sets it.
	Stale bool

	// Rotate means that AppendReply rotates the addresses of an RRset, so that clients
	// that use the first one are distributed over all. ParseReply sets it if the answer
	// has an RRset of several addresses.
	Rotate bool

	TC   bool
	AD   bool
	EDNS bool  // the upstream sent an OPT record
	full int   // names that the upstream did not compress
	EDE  []EDE // the upstream's, at most eight
}

var (
	errReplyShort    = errors.New("parse reply: shorter than a header")
	errReplyLong     = errors.New("parse reply: longer than 65,535 bytes")
	errReplyQR       = errors.New("parse reply: QR is not set: it is a query")
	errReplyOpcode   = errors.New("parse reply: opcode is not QUERY")
	errReplyQuestion = errors.New("parse reply: not exactly one well-formed question")

	errOPTPlace   = errors.New("OPT is misplaced or not the only one")
	errOPTOwner   = errors.New("OPT is not owned by the root")
	errOPTOptions = errors.New("an OPT option runs past the record's end")
	errTSIGPlace  = errors.New("TSIG is not the last record")
)

var sections = [3]string{"answer", "authority", "additional"}

// ParseReply checks all of an upstream's reply: the upstream may be hostile, and clients
// that parse the reply may be less careful. It checks every record's boundaries, and the
// names in the RDATA of the types that are known to have some (unknown types are opaque,
// RFC 3597). A compression pointer has to refer to an earlier name, or to the tail of one.
//
// Bytes after the last record are discarded, as by Unbound and kdig: some servers and
// middleboxes append them.
//
// ParseReply takes ownership of msg and modifies it. OPT and TSIG are hop by hop and are
// removed (records after an OPT are moved, and their pointers corrected). TTLs with the
// top bit set become 0 (RFC 2181 §8). The TTL of a negative reply's SOA becomes at most
// its MINIMUM, as RFC 2308 §3 requires of servers, so that it expires with the cache
// entry.
func ParseReply(msg []byte) (Reply, error) {
	var r Reply
	if err := r.Parse(msg); err != nil {
		return Reply{}, err
	}
	return r, nil
}

// Parse is like ParseReply, and reuses the memory of r.TTLs. After an error r is empty
// except for that.
func (r *Reply) Parse(msg []byte) error {
	*r = Reply{TTLs: r.TTLs[:0]}
	switch {
	case len(msg) < HeaderLen:
		return errReplyShort
	case len(msg) > MaxMessage:
		return errReplyLong
	case msg[2]&bitQR == 0:
		return errReplyQR
	case msg[2]>>opcodeShift&opcodeMask != OpcodeQuery:
		return errReplyOpcode
	}
	q := questionOf(msg)
	if q == nil {
		return errReplyQuestion
	}
	r.QEnd = HeaderLen + len(q)
	r.Rcode = uint16(msg[3] & 0x0F)
	r.TC, r.AD = msg[2]&bitTC != 0, msg[3]&bitAD != 0
	w := walker{msg: msg, qtype: binary.BigEndian.Uint16(q[len(q)-4:]), ttl: maxTTL, minimum: maxTTL}
	if _, err := w.name(HeaderLen, r.QEnd); err != nil {
		return errReplyQuestion // not reached: questionOf parsed it
	}
	if err := w.records(r); err != nil {
		return err
	}
	r.Msg = w.msg
	w.finish(r)
	return nil
}

// records walks all three sections and removes OPT and TSIG.
func (w *walker) records(r *Reply) error {
	an := int(binary.BigEndian.Uint16(w.msg[6:]))
	ns := int(binary.BigEndian.Uint16(w.msg[8:]))
	ar := int(binary.BigEndian.Uint16(w.msg[10:]))
	// A record has at least eleven bytes, so wrong counts do not cause a large allocation.
	if n := min(an+ns+ar, (len(w.msg)-r.QEnd)/(1+fixedLen)); n > cap(r.TTLs) {
		r.TTLs = make([]uint16, 0, n)
	}
	off, kept := r.QEnd, ar
	for s, count := range [3]int{an, ns, ar} {
		for i := range count {
			rr, err := w.record(off)
			if err == nil {
				switch rr.typ {
				case TypeOPT:
					err = w.removeOPT(r, s, off, rr)
					kept--
				case TypeTSIG:
					if s != 2 || i != count-1 {
						err = errTSIGPlace
					}
					kept--
				default:
					r.TTLs = append(r.TTLs, uint16(rr.ttl))
					w.update(s, rr)
					off = rr.end
				}
			}
			if err != nil {
				return fmt.Errorf("parse reply: record %d of %s: %w", i+1, sections[s], err)
			}
		}
	}
	w.msg = w.msg[:off] // without TSIG and bytes that no count covers
	binary.BigEndian.PutUint16(w.msg[10:], uint16(kept))
	return nil
}

// removeOPT reads the OPT record at off and removes it from the message.
func (w *walker) removeOPT(r *Reply, section, off int, rr record) error {
	if section != 2 || w.cutLen != 0 {
		return errOPTPlace
	}
	if w.msg[off] != 0 {
		return errOPTOwner
	}
	r.EDNS = true
	r.Rcode |= uint16(w.msg[rr.ttl]) << 4
	for data := w.msg[rr.data:rr.end]; len(data) > 0; {
		code, value, rest, ok := nextOption(data)
		if !ok {
			return errOPTOptions
		}
		if code == optEDE && len(r.EDE) < maxEDEs {
			if ede, ok := readEDE(value); ok {
				r.EDE = append(r.EDE, ede)
			}
		}
		data = rest
	}
	w.cutAt, w.cutLen = off, rr.end-off
	w.msg = append(w.msg[:off], w.msg[rr.end:]...)
	return nil
}

// maxTTL is the largest valid TTL (RFC 2181 §8).
const maxTTL = 1<<31 - 1

// update updates what determines how long the reply may be cached.
func (w *walker) update(section int, rr record) {
	field := w.msg[rr.ttl : rr.ttl+4]
	ttl := binary.BigEndian.Uint32(field)
	if ttl > maxTTL {
		ttl = 0
		binary.BigEndian.PutUint32(field, 0)
	}
	w.ttl = min(w.ttl, ttl)
	switch {
	case section == 0 && (rr.typ == w.qtype || w.qtype == TypeANY):
		w.answered = true
	case section == 1 && rr.typ == TypeSOA:
		w.soa = true
		minimum := binary.BigEndian.Uint32(w.msg[rr.end-4:])
		if minimum > maxTTL {
			minimum = 0
		}
		w.minimum = min(w.minimum, minimum)
	}
}

// finish sets r.Negative and r.TTL.
func (w *walker) finish(r *Reply) {
	r.Rotate, r.full = r.rotatable(), w.full
	r.Negative = r.Rcode == RcodeNXDomain || r.Rcode == RcodeSuccess && !w.answered
	switch {
	case r.Rcode != RcodeSuccess && r.Rcode != RcodeNXDomain, r.TC,
		w.qtype == TypeAXFR, w.qtype == TypeIXFR, len(r.TTLs) == 0:
		return // errors, truncated replies and transfers are not cached
	case !r.Negative:
		r.TTL = w.ttl
	case w.soa:
		// A negative reply without SOA, a referral for example, has no lifetime, so
		// it is not cached (RFC 2308 §5).
		r.TTL = min(w.ttl, w.minimum)
		w.limitSOA(r)
	}
}

// limitSOA sets the TTL of the authority section's SOA to at most its MINIMUM.
func (w *walker) limitSOA(r *Reply) {
	for _, off := range r.TTLs {
		typ := binary.BigEndian.Uint16(w.msg[off-4:])
		field := w.msg[off : off+4]
		if typ == TypeSOA && binary.BigEndian.Uint32(field) > w.minimum {
			binary.BigEndian.PutUint32(field, w.minimum)
		}
	}
}
