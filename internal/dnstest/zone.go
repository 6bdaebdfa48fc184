// SPDX-License-Identifier: Apache-2.0

package dnstest

import (
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"time"
)

// maxTXT limits the rdata of a txt-N name so that the message fits into 65,535 bytes.
const maxTXT = 65_000

// ZoneConfig configures a [Zone].
type ZoneConfig struct {
	// Origin is the zone's name. "": the root, which contains every name. Names
	// outside the zone are REFUSED.
	Origin string

	// A and AAAA are the addresses of every name. If both are empty, they are
	// 192.0.2.1 and 2001:db8::1. If one is empty, that type is NODATA.
	A, AAAA []netip.Addr

	// Hosts maps full names to addresses that replace A and AAAA.
	Hosts map[string][]netip.Addr

	// TTL is the TTL of every record. 0: 300 s. NegativeTTL is the TTL and the
	// MINIMUM of the SOA record. 0: 60 s.
	TTL, NegativeTTL time.Duration
}

// Zone is a [Handler] that answers every name in its zone. The first label of the name
// selects the answer:
//
//	nxdomain…    NXDOMAIN with the zone's SOA
//	nodata…      NODATA with the SOA, for every type
//	servfail…    SERVFAIL; likewise refused…, notimp… and formerr…
//	silent…      no reply
//	delay-N      the default answer after N milliseconds
//	ttl-N        the default answer with a TTL of N seconds
//	cname-N      a chain of N aliases (at most 32), then the default answer
//	txt-N        TXT rdata of N bytes (at most 65,000)
//	a-N          N addresses (at most 60,000 bytes), for A and AAAA
//
// All other names have A, AAAA, TXT, MX, SRV, HTTPS, SVCB, NS and PTR records, and the
// origin has an SOA record. Other types have opaque rdata of 32 bytes. If the client sets
// DO, each RRset includes an opaque RRSIG. UDP replies above the client's size limit are
// truncated. A Zone is immutable.
type Zone struct {
	origin []string // labels
	wire   []byte
	a      [][]byte // rdata
	aaaa   [][]byte
	hosts  map[string][]netip.Addr
	ttl    uint32
	negTTL uint32
}

// NewZone returns a Zone.
func NewZone(cfg ZoneConfig) (*Zone, error) {
	if cfg.TTL < 0 || cfg.NegativeTTL < 0 {
		return nil, errors.New("create zone: negative TTL")
	}
	if len(cfg.A)+len(cfg.AAAA) == 0 {
		cfg.A = []netip.Addr{netip.AddrFrom4([4]byte{192, 0, 2, 1})}
		cfg.AAAA = []netip.Addr{netip.MustParseAddr("2001:db8::1")}
	}
	z := &Zone{wire: wireName(cfg.Origin), hosts: make(map[string][]netip.Addr), ttl: 300, negTTL: 60}
	if o := strings.Trim(strings.ToLower(cfg.Origin), "."); o != "" {
		z.origin = strings.Split(o, ".")
	}
	if cfg.TTL > 0 {
		z.ttl = uint32(cfg.TTL / time.Second)
	}
	if cfg.NegativeTTL > 0 {
		z.negTTL = uint32(cfg.NegativeTTL / time.Second)
	}
	for _, a := range cfg.A {
		if !a.Unmap().Is4() {
			return nil, fmt.Errorf("create zone: %s in A is not an IPv4 address", a)
		}
		z.a = append(z.a, a.Unmap().AsSlice())
	}
	for _, a := range cfg.AAAA {
		if !a.Is6() {
			return nil, fmt.Errorf("create zone: %s in AAAA is not an IPv6 address", a)
		}
		z.aaaa = append(z.aaaa, a.AsSlice())
	}
	for name, addrs := range cfg.Hosts {
		z.hosts[strings.ToLower(strings.TrimSuffix(name, "."))+"."] = addrs
	}
	return z, nil
}

// Answer implements [Handler]. It does not reply to malformed queries.
func (z *Zone) Answer(r *Request) Answer {
	q, ok := parse(r.Query)
	if !ok {
		return Answer{}
	}
	selector, n := z.selector(&q)
	var a Answer
	switch selector {
	case "silent":
		return Answer{}
	case "delay":
		a.Delay = time.Duration(n) * time.Millisecond
	}
	a.Msg = z.reply(&q, selector, n)
	if r.Transport == UDP {
		a.Msg = truncate(&q, a.Msg)
	}
	return a
}

// selector returns the word in the first label that selects the answer, and the number
// after it. Both are zero for the origin and for other labels.
func (z *Zone) selector(q *query) (string, int) {
	if len(q.labels) <= len(z.origin) {
		return "", 0
	}
	first := q.labels[0]
	for _, word := range []string{"nxdomain", "nodata", "servfail", "refused", "notimp", "formerr", "silent"} {
		if strings.HasPrefix(first, word) {
			return word, 0
		}
	}
	word, digits, ok := strings.Cut(first, "-")
	if !ok {
		return "", 0
	}
	n, err := strconv.Atoi(digits)
	if err != nil || n < 0 {
		return "", 0
	}
	return word, n
}

var rcodes = map[string]uint8{
	"servfail": RcodeServFail, "refused": RcodeRefused, "notimp": RcodeNotImp, "formerr": RcodeFormErr,
}

// reply builds the answer to q.
func (z *Zone) reply(q *query, selector string, n int) []byte {
	r := newReply(q)
	if !z.contains(q) {
		return r.finish(RcodeRefused)
	}
	if rcode, ok := rcodes[selector]; ok {
		return r.finish(rcode)
	}
	if selector == "nxdomain" || selector == "nodata" {
		z.addSOA(r, authoritySection)
		if selector == "nxdomain" {
			return r.finish(RcodeNXDomain)
		}
		return r.finish(RcodeSuccess)
	}
	ttl := z.ttl
	if selector == "ttl" {
		ttl = uint32(n)
	}
	owner := questionPtr
	if selector == "cname" && q.qtype != TypeCNAME {
		owner = z.addAliases(r, min(n, 32), ttl)
	}
	rdatas := z.records(q, selector, n)
	for _, rdata := range rdatas {
		r.add(answerSection, owner, q.qtype, ttl, rdata)
	}
	switch {
	case len(rdatas) == 0:
		z.addSOA(r, authoritySection)
	case q.do:
		r.add(answerSection, owner, TypeRRSIG, ttl, z.signature(q.qtype, ttl))
	}
	return r.finish(RcodeSuccess)
}

// contains reports whether the name in the question is in the zone.
func (z *Zone) contains(q *query) bool {
	cut := len(q.labels) - len(z.origin)
	if cut < 0 {
		return false
	}
	for i, label := range z.origin {
		if q.labels[cut+i] != label {
			return false
		}
	}
	return true
}
