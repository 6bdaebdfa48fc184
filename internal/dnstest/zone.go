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

// maxTXT is the largest rdata of a txt-N name, so that the whole message still
// fits into 65,535 bytes.
const maxTXT = 65_000

// ZoneConfig describes a [Zone].
type ZoneConfig struct {
	// Origin is the zone's name; "": the root, that is every name. Names
	// elsewhere are REFUSED.
	Origin string

	// A and AAAA are the addresses of every name. Both empty: 192.0.2.1 and
	// 2001:db8::1. One empty: that family is NODATA.
	A, AAAA []netip.Addr

	// Hosts have addresses of their own, by full name.
	Hosts map[string][]netip.Addr

	// TTL is that of every record; 0: 300 s. NegativeTTL is the SOA's, also its
	// MINIMUM; 0: 60 s.
	TTL, NegativeTTL time.Duration
}

// Zone is a [Handler] with an answer for every name below its origin. What the
// answer looks like is said by the name's first label:
//
//	nxdomain…    NXDOMAIN with the zone's SOA
//	nodata…      NODATA with the SOA, for every type
//	servfail…    SERVFAIL; likewise refused…, notimp… and formerr…
//	silent…      no answer at all
//	delay-N      the ordinary answer after N milliseconds
//	ttl-N        the ordinary answer with a TTL of N seconds
//	cname-N      a chain of N aliases (at most 32), then the ordinary answer
//	txt-N        TXT rdata of N bytes (at most 65,000)
//	a-N          N addresses (at most 60,000 bytes of them), for A and AAAA
//
// Every other name has A, AAAA, TXT, MX, SRV, HTTPS, SVCB, NS and PTR, and the
// origin a SOA. Other types have opaque rdata of 32 bytes. A client that sets DO
// gets an opaque RRSIG with each set of records. UDP replies over the client's
// size are truncated. A Zone is immutable.
type Zone struct {
	origin []string // labels
	wire   []byte
	a      [][]byte // rdata
	aaaa   [][]byte
	hosts  map[string][]netip.Addr
	ttl    uint32
	negTTL uint32
}

// NewZone makes a Zone.
func NewZone(cfg ZoneConfig) (*Zone, error) {
	if cfg.TTL < 0 || cfg.NegativeTTL < 0 {
		return nil, errors.New("make a zone: a negative TTL")
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
			return nil, fmt.Errorf("make a zone: %s in A is no IPv4 address", a)
		}
		z.a = append(z.a, a.Unmap().AsSlice())
	}
	for _, a := range cfg.AAAA {
		if !a.Is6() {
			return nil, fmt.Errorf("make a zone: %s in AAAA is no IPv6 address", a)
		}
		z.aaaa = append(z.aaaa, a.AsSlice())
	}
	for name, addrs := range cfg.Hosts {
		z.hosts[strings.ToLower(strings.TrimSuffix(name, "."))+"."] = addrs
	}
	return z, nil
}

// Answer answers r as the zone's doc says, and a query that cannot be read with
// silence.
func (z *Zone) Answer(r *Request) Answer {
	q, ok := parse(r.Query)
	if !ok {
		return Answer{}
	}
	label, n := z.firstLabel(&q)
	var a Answer
	switch label {
	case "silent":
		return Answer{}
	case "delay":
		a.Delay = time.Duration(n) * time.Millisecond
	}
	a.Msg = z.reply(&q, label, n)
	if r.Transport == UDP {
		a.Msg = truncate(&q, a.Msg)
	}
	return a
}

// firstLabel is the word in a name's first label that says what to answer, and
// the number behind it. Both are zero for the origin and for other words.
func (z *Zone) firstLabel(q *query) (string, int) {
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
func (z *Zone) reply(q *query, label string, n int) []byte {
	r := newReply(q)
	if !z.holds(q) {
		return r.finish(RcodeRefused)
	}
	if rcode, ok := rcodes[label]; ok {
		return r.finish(rcode)
	}
	if label == "nxdomain" || label == "nodata" {
		z.addSOA(r, authoritySection)
		if label == "nxdomain" {
			return r.finish(RcodeNXDomain)
		}
		return r.finish(RcodeSuccess)
	}
	ttl := z.ttl
	if label == "ttl" {
		ttl = uint32(n)
	}
	owner := questionPtr
	if label == "cname" && q.qtype != TypeCNAME {
		owner = z.addAliases(r, min(n, 32), ttl)
	}
	rdatas := z.records(q, label, n)
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

// holds reports whether the question is in the zone.
func (z *Zone) holds(q *query) bool {
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
