// SPDX-License-Identifier: Apache-2.0

package dnssec

import (
	"context"
	"crypto"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"

	"sotto/forwarder/dnssec/anchor"
	"sotto/forwarder/dnssec/record"
	"sotto/forwarder/wire"
)

// now is the time of the tests.
var now = time.Date(2026, 11, 26, 12, 0, 0, 0, time.UTC)

// testZone is a zone that miekg/dns signs.
type testZone struct {
	name    string
	key     *dns.DNSKEY // nil: not signed
	private crypto.Signer
	records map[string]map[uint16][]dns.RR // by lower-case owner and type
	names   []string                       // in canonical order
	from    time.Time
	to      time.Time
}

// world is an upstream that has all zones, and answers as a recursive resolver does.
type world struct {
	mu     sync.Mutex
	zones  map[string]*testZone
	change func(q dns.Question, r *dns.Msg) // changes a reply
	asked  map[string]int                   // by name and type
	delay  time.Duration
}

// zone adds a zone with records, signed if alg is not 0.
func (w *world) zone(t testing.TB, name string, alg uint8, text string) *testZone {
	t.Helper()
	z := &testZone{name: name, records: map[string]map[uint16][]dns.RR{}, from: now.Add(-time.Hour), to: now.Add(240 * time.Hour)}
	p := dns.NewZoneParser(strings.NewReader("$TTL 300\n@ SOA ns hostmaster 1 3600 600 86400 60\n@ NS ns\n"+text), name, "")
	for rr, ok := p.Next(); ok; rr, ok = p.Next() {
		z.add(rr)
	}
	if p.Err() != nil {
		t.Fatal(p.Err())
	}
	if alg != 0 {
		z.sharedKey(t, alg)
	}
	w.zones[name] = z
	return z
}

// madeKeys are the keys of zones by name, which tests share because RSA keys take long.
var (
	madeMu   sync.Mutex
	madeKeys = map[string]*testZone{}
)

func (z *testZone) sharedKey(t testing.TB, alg uint8) {
	t.Helper()
	madeMu.Lock()
	defer madeMu.Unlock()
	made := madeKeys[z.name]
	if made == nil || made.key.Algorithm != alg {
		made = &testZone{name: z.name, records: map[string]map[uint16][]dns.RR{}}
		made.newKey(t, alg)
		madeKeys[z.name] = made
	}
	z.key, z.private = dns.Copy(made.key).(*dns.DNSKEY), made.private
	z.add(z.key)
}

func (z *testZone) newKey(t testing.TB, alg uint8) {
	t.Helper()
	z.key = &dns.DNSKEY{Hdr: dns.RR_Header{Name: z.name, Rrtype: dns.TypeDNSKEY, Class: dns.ClassINET, Ttl: 300}, Flags: 257, Protocol: 3, Algorithm: alg}
	bits := map[uint8]int{dns.RSASHA256: 2048, dns.RSASHA512: 2048, dns.ECDSAP384SHA384: 384}[alg]
	if bits == 0 {
		bits = 256
	}
	private, err := z.key.Generate(bits)
	if err != nil {
		t.Fatal(err)
	}
	z.private = private.(crypto.Signer)
	z.add(z.key)
}

func (z *testZone) add(rr dns.RR) {
	owner := dns.CanonicalName(rr.Header().Name)
	if z.records[owner] == nil {
		z.records[owner] = map[uint16][]dns.RR{}
		z.names = append(z.names, owner)
		slices.SortFunc(z.names, func(a, b string) int { return record.Compare(wireName(a), wireName(b)) })
	}
	z.records[owner][rr.Header().Rrtype] = append(z.records[owner][rr.Header().Rrtype], rr)
}

// delegate adds the delegation of a child; ds is false for an unsigned one.
func (z *testZone) delegate(child *testZone, ds bool) {
	z.add(&dns.NS{Hdr: dns.RR_Header{Name: child.name, Rrtype: dns.TypeNS, Class: dns.ClassINET, Ttl: 300}, Ns: "ns." + child.name})
	if ds {
		d := child.key.ToDS(dns.SHA256)
		d.Hdr.Ttl = 300
		z.add(d)
	}
}

func wireName(s string) record.Name {
	n, err := anchor.ParseName(s)
	if err != nil {
		panic(err)
	}
	return n
}

// sign returns an RRset with its signature. If owner differs from the records', they are expanded
// from a wildcard.
func (z *testZone) sign(set []dns.RR, owner string) []dns.RR {
	if z.key == nil || len(set) == 0 {
		return rename(set, owner)
	}
	sig := &dns.RRSIG{Algorithm: z.key.Algorithm, KeyTag: z.key.KeyTag(), SignerName: z.name,
		Inception: uint32(z.from.Unix()), Expiration: uint32(z.to.Unix()), Hdr: dns.RR_Header{Ttl: set[0].Header().Ttl}}
	if err := sig.Sign(z.private, set); err != nil {
		panic(err)
	}
	return append(rename(set, owner), rename([]dns.RR{sig}, owner)...)
}

func rename(set []dns.RR, owner string) []dns.RR {
	var out []dns.RR
	for _, rr := range set {
		c := dns.Copy(rr)
		c.Header().Name = owner
		out = append(out, c)
	}
	return out
}

// nsec returns the signed NSEC record that matches or covers a name.
func (z *testZone) nsec(name string) []dns.RR {
	names := slices.DeleteFunc(slices.Clone(z.names), func(n string) bool { return z.occluded(n) })
	i, found := slices.BinarySearchFunc(names, name, func(a, b string) int { return record.Compare(wireName(a), wireName(b)) })
	if !found {
		i--
	}
	owner := names[i]
	types := []uint16{dns.TypeNSEC, dns.TypeRRSIG}
	for t := range z.records[owner] {
		types = append(types, t)
	}
	slices.Sort(types)
	return z.sign([]dns.RR{&dns.NSEC{Hdr: dns.RR_Header{Name: owner, Rrtype: dns.TypeNSEC, Class: dns.ClassINET, Ttl: 60},
		NextDomain: names[(i+1)%len(names)], TypeBitMap: types}}, owner)
}

// occluded reports whether a name is below a delegation.
func (z *testZone) occluded(name string) bool {
	for n := parent(name); n != z.name && len(n) > len(z.name); n = parent(n) {
		if z.records[n][dns.TypeNS] != nil {
			return true
		}
	}
	return false
}

func parent(name string) string {
	i, end := dns.NextLabel(name, 0)
	if end || i >= len(name) {
		return "."
	}
	return name[i:]
}

// find returns the zone that has the records of a name.
func (w *world) find(name string, typ uint16) *testZone {
	if typ == dns.TypeDS && name != "." {
		name = parent(name)
	}
	for ; ; name = parent(name) {
		if z := w.zones[name]; z != nil {
			return z
		}
		if name == "." {
			return nil
		}
	}
}

// resolve adds the answer for a name to r.
func (w *world) resolve(r *dns.Msg, name string, typ uint16) {
	for range 10 {
		z := w.find(name, typ)
		if z == nil {
			r.Rcode = dns.RcodeServerFailure
			return
		}
		if z.records[name] == nil {
			if d := z.dname(name); d != nil {
				target := strings.TrimSuffix(name, d.Hdr.Name) + d.Target
				r.Answer = append(r.Answer, z.sign([]dns.RR{d}, d.Hdr.Name)...)
				r.Answer = append(r.Answer, &dns.CNAME{Hdr: dns.RR_Header{Name: name, Rrtype: dns.TypeCNAME, Class: dns.ClassINET, Ttl: 300}, Target: target})
				name = target
				continue
			}
		}
		target := w.local(r, z, name, typ)
		if target == "" {
			return
		}
		name = target
	}
}

func (z *testZone) dname(name string) *dns.DNAME {
	for n := parent(name); ; n = parent(n) {
		if set := z.records[n][dns.TypeDNAME]; set != nil {
			return set[0].(*dns.DNAME)
		}
		if n == z.name || n == "." {
			return nil
		}
	}
}

// local answers from one zone. It returns the target of a CNAME.
func (w *world) local(r *dns.Msg, z *testZone, name string, typ uint16) string {
	owner := name
	exists := slices.ContainsFunc(z.names, func(n string) bool { return dns.IsSubDomain(name, n) })
	if !exists {
		encloser := parent(name)
		for !slices.ContainsFunc(z.names, func(n string) bool { return dns.IsSubDomain(encloser, n) }) {
			encloser = parent(encloser)
		}
		owner = "*." + strings.TrimPrefix(encloser, ".")
	}
	if z.records[owner] != nil && owner != name && z.key != nil {
		r.Ns = append(r.Ns, z.nsec(name)...)
	}
	if set := z.records[owner][typ]; set != nil {
		r.Answer = append(r.Answer, z.sign(set, name)...)
		return ""
	}
	if set := z.records[owner][dns.TypeCNAME]; set != nil {
		r.Answer = append(r.Answer, z.sign(set, name)...)
		return dns.CanonicalName(set[0].(*dns.CNAME).Target)
	}
	if !exists && z.records[owner] == nil {
		r.Rcode = dns.RcodeNameError
	}
	r.Ns = append(r.Ns, z.sign(z.records[z.name][dns.TypeSOA], z.name)...)
	if z.key != nil {
		for _, n := range []string{name, owner} {
			nsec := z.nsec(n)
			if !slices.ContainsFunc(r.Ns, func(rr dns.RR) bool { return dns.IsDuplicate(rr, nsec[0]) }) {
				r.Ns = append(r.Ns, nsec...)
			}
		}
	}
	return ""
}

// Exchange implements [Exchanger].
func (w *world) Exchange(ctx context.Context, query []byte, until time.Time) ([]byte, error) {
	m := new(dns.Msg)
	if err := m.Unpack(query); err != nil {
		return nil, err
	}
	q := m.Question[0]
	w.mu.Lock()
	defer w.mu.Unlock()
	w.asked[fmt.Sprintf("%s %s", q.Name, dns.TypeToString[q.Qtype])]++
	if w.delay > 0 {
		w.mu.Unlock()
		time.Sleep(w.delay)
		w.mu.Lock()
	}
	r := new(dns.Msg)
	r.SetReply(m)
	r.CheckingDisabled, r.AuthenticatedData, r.RecursionAvailable = m.CheckingDisabled, true, true
	w.resolve(r, dns.CanonicalName(q.Name), q.Qtype)
	r.SetEdns0(1232, true)
	if w.change != nil {
		w.change(q, r)
	}
	r.Compress = true
	return r.Pack()
}

// times returns how often a question was asked.
func (w *world) times(question string) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.asked[question]
}

// update changes the zones, or the replies, while queries may still be running.
func (w *world) update(change func(*world)) {
	w.mu.Lock()
	defer w.mu.Unlock()
	change(w)
}

// newWorld returns a root with a few zones, and a validator of it.
func newWorld(t testing.TB) (*world, *Validator) {
	t.Helper()
	w := &world{zones: map[string]*testZone{}, asked: map[string]int{}}
	root := w.zone(t, ".", dns.ECDSAP256SHA256, "")
	top := w.zone(t, "test.", dns.ED25519, "ns A 192.0.2.1\n")
	root.delegate(top, true)
	for name, alg := range map[string]uint8{"a8": dns.RSASHA256, "a10": dns.RSASHA512, "a13": dns.ECDSAP256SHA256, "a14": dns.ECDSAP384SHA384, "a15": dns.ED25519} {
		z := w.zone(t, name+".test.", alg, contents)
		plain := w.zone(t, "plain."+name+".test.", 0, contents)
		z.delegate(plain, false)
		top.delegate(z, true)
	}
	top.delegate(w.zone(t, "plain.test.", 0, contents), false)
	top.delegate(w.zone(t, "island.test.", dns.ED25519, contents), false)
	return w, New(Config{Upstream: w, Anchors: anchorOf(t, root), Now: func() time.Time { return now }})
}

func anchorOf(t testing.TB, z *testZone) *anchor.Set {
	t.Helper()
	ds := z.key.ToDS(dns.SHA256)
	digest, err := hex.DecodeString(ds.Digest)
	if err != nil {
		t.Fatal(err)
	}
	set := anchor.NewSet()
	set.AddDS(wireName(z.name), record.DS{Tag: ds.KeyTag, Algorithm: ds.Algorithm, Type: ds.DigestType, Digest: digest})
	return set
}

const contents = `ns A 192.0.2.1
www A 192.0.2.1
www A 192.0.2.2
a.b.ent TXT "text"
*.w A 192.0.2.4
x.y.w A 192.0.2.5
*.wc CNAME www
alias CNAME WWW
cross CNAME www.a13.test.
crossplain CNAME www.plain.test.
crossnx CNAME nx.a15.test.
dn DNAME a14.test.
`

// ask sends a query for a client.
func ask(v *Validator, name string, typ uint16, do bool) (*dns.Msg, error) {
	q := &wire.Query{DO: do}
	q.Msg = append(make([]byte, wire.HeaderLen), wireName(name)...)
	q.Msg = append(q.Msg, byte(typ>>8), byte(typ), 0, 1)
	q.QEnd = len(q.Msg)
	raw, err := v.Exchange(context.Background(), wire.AppendQuery(nil, q), time.Now().Add(time.Minute))
	if err != nil {
		return nil, err
	}
	m := new(dns.Msg)
	return m, m.Unpack(raw)
}
