// SPDX-License-Identifier: Apache-2.0

package denial

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"sotto/forwarder/dnssec/record"
	"sotto/forwarder/wire"
)

const zone record.Name = "\x01z\x00"

// model is a zone: what exists, by brute force.
type model struct {
	types map[record.Name][]uint16 // of the names that have records
}

var labels = []string{"a", "b", "c", "*"}

// newModel makes a zone of a few names. Each pair of bytes of data is a name and its types.
func newModel(data []byte) *model {
	m := &model{types: map[record.Name][]uint16{zone: {wire.TypeNS, wire.TypeSOA, wire.TypeDNSKEY}}}
	for ; len(data) >= 2 && len(m.types) < 12; data = data[2:] {
		name := zone
		for i := range 1 + int(data[0]>>6)%3 {
			name = record.Name("\x01"+labels[data[0]>>(2*i)&3]) + name
		}
		var types []uint16
		switch {
		case data[1]&7 == 7:
			types = []uint16{wire.TypeNS}
		case data[1]&7 == 6:
			types = []uint16{wire.TypeNS, wire.TypeDS}
		case data[1]&7 == 5:
			types = []uint16{wire.TypeDNAME}
		case data[1]&7 == 4:
			types = []uint16{wire.TypeCNAME}
		default:
			types = []uint16{wire.TypeA}
			if data[1]&8 != 0 {
				types = append(types, wire.TypeTXT)
			}
		}
		m.types[name] = types
	}
	for name := range m.types {
		if m.cut(name) != "" {
			delete(m.types, name)
		}
	}
	return m
}

// cut returns the delegation or DNAME that name is below, or "".
func (m *model) cut(name record.Name) record.Name {
	for n := name; n != zone; {
		n = n.Parent()
		t := m.types[n]
		if n != zone && slices.Contains(t, wire.TypeNS) || slices.Contains(t, wire.TypeDNAME) {
			return n
		}
	}
	return ""
}

func (m *model) exists(name record.Name) bool {
	for n := range m.types {
		if n.Within(name) {
			return true
		}
	}
	return false
}

// source returns the name whose records answer for name: itself or a wildcard. It reports false
// if there is none.
func (m *model) source(name record.Name) (record.Name, bool) {
	if m.exists(name) {
		return name, true
	}
	encloser := name.Parent()
	for !m.exists(encloser) {
		encloser = encloser.Parent()
	}
	wild, _ := encloser.Wildcard()
	return wild, m.exists(wild)
}

// nsec returns the NSEC records of the zone.
func (m *model) nsec() (sets []*record.Set) {
	var names []record.Name
	for n := range m.types {
		names = append(names, n)
	}
	slices.SortFunc(names, record.Compare)
	for i, n := range names {
		data := append([]byte(names[(i+1)%len(names)]), bitmap(append(m.types[n], wire.TypeNSEC, wire.TypeRRSIG))...)
		sets = append(sets, &record.Set{Owner: n, Type: wire.TypeNSEC, Data: [][]byte{data}})
	}
	return sets
}

// nsec3 returns the NSEC3 records of the zone. With optOut unsigned delegations have none.
func (m *model) nsec3(optOut bool, iterations uint16) (sets []*record.Set) {
	const salt = "salt"
	types := map[string][]uint16{}
	for n, t := range m.types {
		from := n
		if optOut && n != zone && slices.Contains(t, wire.TypeNS) && !slices.Contains(t, wire.TypeDS) {
			from = n.Parent() // RFC 5155 §7.1 allows to leave out the names above, too
		}
		for at := from; ; at = at.Parent() {
			h := string(Hash(at, salt, iterations))
			if _, ok := types[h]; !ok || at == n {
				types[h] = nil
			}
			if at == zone {
				break
			}
		}
	}
	hashed := keys(types)
	for n, t := range m.types {
		if h := string(Hash(n, salt, iterations)); slices.Contains(hashed, h) {
			types[h] = t
		}
	}
	hashes := keys(types)
	for i, h := range hashes {
		head := []byte{hashSHA1, 0, byte(iterations >> 8), byte(iterations), byte(len(salt))}
		if optOut {
			head[1] = 1
		}
		data := append(append(append(head, salt...), 20), hashes[(i+1)%len(hashes)]...)
		if t := types[h]; len(t) > 0 {
			data = append(data, bitmap(append(slices.Clone(t), wire.TypeRRSIG))...)
		}
		label := strings.ToLower(base32hex.EncodeToString([]byte(h)))
		sets = append(sets, &record.Set{Owner: record.Name("\x20"+label) + zone, Type: wire.TypeNSEC3, Data: [][]byte{data}})
	}
	return sets
}

func keys(m map[string][]uint16) (all []string) {
	for k := range m {
		all = append(all, k)
	}
	slices.Sort(all)
	return all
}

func bitmap(types []uint16) []byte {
	window := make([]byte, 32)
	for _, t := range types {
		window[t>>3] |= 0x80 >> (t & 7)
	}
	window = bytes.TrimRight(window, "\x00")
	return append([]byte{0, byte(len(window))}, window...)
}

// universe lists all names of up to three labels.
func universe() (all []record.Name) {
	level := []record.Name{zone}
	for range 3 {
		var next []record.Name
		for _, n := range level {
			for _, l := range labels {
				next = append(next, record.Name("\x01"+l)+n)
			}
		}
		all, level = append(all, level...), next
	}
	return append(all, level...)
}

// check compares proofs of the records with the model. complete is set if all records of the zone
// are there, so that whatever is true is proven.
func (m *model) check(t *testing.T, sets []*record.Set, complete, optOut bool) {
	t.Helper()
	for _, name := range universe() {
		p := New(zone, Limits{Iterations: 10, MaxIterations: 10, Hashes: 1000})
		for _, s := range sets {
			p.Add(s)
		}
		source, found := m.source(name)
		outside := m.cut(name) != ""
		got := p.NameError(name)
		if got == Proven && (found || outside) {
			t.Fatalf("%s exists, or is not in the zone, and is denied: %v", name, m.types)
		}
		if complete && !found && !outside && got != Proven && !(optOut && got == Insecure) {
			t.Fatalf("%s does not exist, and is not denied: %v", name, m.types)
		}
		for _, typ := range []uint16{wire.TypeA, wire.TypeTXT, wire.TypeDS} {
			m.checkType(t, p, name, typ, source, found && !outside, complete, optOut)
		}
		if name != zone {
			m.checkDelegation(t, p, name, complete, optOut)
		}
		if encloser := source.Parent(); found && source != name && !outside {
			if r := p.NoCloser(name, encloser); complete && r != Proven && !(optOut && r == Insecure) {
				t.Fatalf("%s was expanded from %s, and that is not proven: %v", name, source, m.types)
			}
		}
		for encloser := name; encloser != zone; {
			encloser = encloser.Parent()
			if next := name.Suffix(encloser.Labels() + 1); m.exists(next) && m.cut(name) == "" && p.NoCloser(name, encloser) == Proven {
				t.Fatalf("%s exists, and it is proven that nothing is closer to %s than %s: %v", next, name, encloser, m.types)
			}
		}
	}
}

func (m *model) checkType(t *testing.T, p *Proof, name record.Name, typ uint16, source record.Name, found, complete, optOut bool) {
	t.Helper()
	types := m.types[source]
	referral := source != zone && slices.Contains(types, wire.TypeNS) && typ != wire.TypeDS
	if typ == wire.TypeDS && source == zone {
		return // that of the parent
	}
	absent := found && !referral && !slices.Contains(types, typ) && !slices.Contains(types, wire.TypeCNAME)
	got := p.NoData(name, typ)
	if got == Proven && !absent {
		t.Fatalf("%s %d is denied: %v", name, typ, m.types)
	}
	if complete && absent && got != Proven && !(optOut && got == Insecure) {
		t.Fatalf("%s %d is not denied (%d): %v", name, typ, got, m.types)
	}
}

func (m *model) checkDelegation(t *testing.T, p *Proof, name record.Name, complete, optOut bool) {
	t.Helper()
	types := m.types[name]
	cut, _ := p.Delegation(name)
	is := slices.Contains(types, wire.TypeNS)
	switch {
	case m.cut(name) != "":
		if cut == Unsigned && !optOut {
			t.Fatalf("%s is below a cut, and counts as delegated: %v", name, m.types)
		}
	case is && slices.Contains(types, wire.TypeDS):
		if cut != Unknown {
			t.Fatalf("%s is a signed delegation, and that is denied (%d): %v", name, cut, m.types)
		}
	case is:
		if cut == NotCut || complete && cut != Unsigned {
			t.Fatalf("%s is an unsigned delegation: got %d: %v", name, cut, m.types)
		}
	default:
		if cut == Unsigned && !optOut || complete && cut == Unknown {
			t.Fatalf("%s is not delegated: got %d: %v", name, cut, m.types)
		}
	}
}

// checkAll checks a zone with all of its records and with some of them.
func checkAll(t *testing.T, data []byte, pick uint64) {
	t.Helper()
	m := newModel(data)
	random := rand.New(rand.NewPCG(pick, binary.BigEndian.Uint64(append(make([]byte, 8), data...)[len(data):])))
	for _, chain := range [][]*record.Set{m.nsec(), m.nsec3(false, 0), m.nsec3(true, 2)} {
		optOut := chain[0].Type == wire.TypeNSEC3 && chain[0].Data[0][1] == 1
		m.check(t, chain, true, optOut)
		m.check(t, slices.DeleteFunc(chain, func(*record.Set) bool { return random.IntN(2) == 0 }), false, optOut)
	}
}

// TestModel: proofs agree with the zones that they are made of: what is proven is true, and what
// is true is proven if all records are there.
func TestModel(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	for range 15 {
		data := make([]byte, 2*random.IntN(12))
		for i := range data {
			data[i] = byte(random.Uint32())
		}
		checkAll(t, data, random.Uint64())
	}
}

func FuzzModel(f *testing.F) {
	f.Add([]byte{0, 0, 0x41, 7, 0x92, 9}, uint64(1))
	f.Fuzz(func(t *testing.T, data []byte, pick uint64) { checkAll(t, data, pick) })
}

// TestIterations: records with too many iterations are not examined (RFC 9276).
func TestIterations(t *testing.T) {
	m := newModel(nil)
	for iterations, want := range map[uint16]Result{0: Proven, 10: Proven, 11: TooManyIterations, 20: TooManyIterations, 21: Excessive} {
		p := New(zone, Limits{Iterations: 10, MaxIterations: 20, Hashes: 100})
		for _, s := range m.nsec3(false, iterations) {
			p.Add(s)
		}
		if got := p.NameError("\x01a" + zone); got != want {
			t.Errorf("%d iterations: %d: want %d", iterations, got, want)
		}
	}
}

// TestWork: the number of hashes is limited (CVE-2023-50868).
func TestWork(t *testing.T) {
	m := newModel(nil)
	p := New(zone, DefaultLimits)
	for _, s := range m.nsec3(false, 0) {
		p.Add(s)
	}
	name := record.Name(strings.Repeat("\x01a", 120)) + zone
	if got := p.NameError(name); got != TooMuchWork || p.Hashes() > DefaultLimits.Hashes {
		t.Errorf("%d after %d hashes", got, p.Hashes())
	}
}
