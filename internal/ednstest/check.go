// SPDX-License-Identifier: Apache-2.0

package ednstest

import (
	"errors"
	"fmt"

	"golang.org/x/net/dns/dnsmessage"
)

// minUDP is the UDP message size that every client accepts.
const minUDP = 512

// parsedReply holds the parts of a reply that Check examines.
type parsedReply struct {
	dnsmessage.Header
	z       bool
	rcode   int // including the extended bits in OPT
	answers int
	opt     *dnsmessage.ResourceHeader // nil: no OPT record
	options []dnsmessage.Option
}

// Check returns an error that describes the first fault of a reply to q. Parameter udp
// selects between the rules for UDP and for TCP.
func (q *Question) Check(reply []byte, udp bool) error {
	r, err := parse(reply)
	if err != nil {
		return err
	}
	answers, truncated := q.answers, q.truncated && udp
	if truncated {
		answers = 0
	}
	switch {
	case r.ID != id || !r.Response:
		return fmt.Errorf("not a reply to the query: ID %#x, QR %v", r.ID, r.Response)
	case r.rcode != q.rcode:
		return fmt.Errorf("response code %d, want %d", r.rcode, q.rcode)
	case r.answers != answers:
		return fmt.Errorf("%d answers, want %d", r.answers, answers)
	case r.z || r.Authoritative:
		return fmt.Errorf("flag Z is %v, AA is %v, want neither", r.z, r.Authoritative)
	case r.Truncated != truncated || truncated && len(reply) > minUDP:
		return fmt.Errorf("TC is %v in %d bytes, want TC %v", r.Truncated, len(reply), truncated)
	case (r.opt != nil) != q.edns:
		return fmt.Errorf("has OPT record: %v, want %v", r.opt != nil, q.edns)
	}
	return q.checkOPT(r)
}

// checkOPT checks the OPT record, if there is one.
func (q *Question) checkOPT(r *parsedReply) error {
	if r.opt == nil {
		return nil
	}
	version, do, rest := r.opt.TTL>>16&0xFF, r.opt.TTL&0x8000 != 0, r.opt.TTL&0x7FFF
	if version != 0 || do != q.do || rest != 0 || r.opt.Class < minUDP {
		return fmt.Errorf("EDNS version %d, DO %v, other flags %#x, size %d; want version 0, DO %v, flags 0, size at least %d",
			version, do, rest, r.opt.Class, q.do, minUDP)
	}
	for _, o := range r.options {
		const cookie = 8 + 16 // the client's part, and a server cookie (RFC 9018 §4)
		if o.Code != optEDE && (o.Code != optCookie || len(o.Data) != cookie) {
			return fmt.Errorf("option %d was echoed", o.Code)
		}
	}
	return nil
}

// parse parses a reply.
func parse(reply []byte) (*parsedReply, error) {
	var p dnsmessage.Parser
	var r parsedReply
	var err error
	if r.Header, err = p.Start(reply); err != nil {
		return nil, err
	}
	r.z, r.rcode = reply[3]&z != 0, int(r.RCode)
	if err := p.SkipAllQuestions(); err != nil {
		return nil, err
	}
	for {
		if err = p.SkipAnswer(); err != nil {
			break
		}
		r.answers++
	}
	if !errors.Is(err, dnsmessage.ErrSectionDone) {
		return nil, err
	}
	if err := p.SkipAllAuthorities(); err != nil {
		return nil, err
	}
	return &r, r.parseAdditional(&p)
}

// parseAdditional finds the OPT record.
func (r *parsedReply) parseAdditional(p *dnsmessage.Parser) error {
	for {
		h, err := p.AdditionalHeader()
		if errors.Is(err, dnsmessage.ErrSectionDone) {
			return nil
		}
		if err != nil {
			return err
		}
		if h.Type != dnsmessage.TypeOPT {
			if err := p.SkipAdditional(); err != nil {
				return err
			}
			continue
		}
		if r.opt != nil {
			return errors.New("two OPT records")
		}
		body, err := p.OPTResource()
		if err != nil {
			return err
		}
		r.opt, r.options = &h, body.Options
		r.rcode = int(h.ExtendedRCode(r.RCode))
	}
}
