// SPDX-License-Identifier: Apache-2.0

package hits_test

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"sotto/intercept/hits"
	"sotto/intercept/hits/hitstest"
	"sotto/internal/netlab/labtest"
)

type machine struct {
	*hitstest.Machine
	t *testing.T
}

// start returns a machine with one slot, and the class of that.
func start(t *testing.T, entries int) (machine, uint32) {
	t.Helper()
	m := machine{hitstest.New(t, entries), t}
	m.SetOrigin(5, netip.MustParseAddr("8.8.8.8"), 2)
	class := m.NewClass()
	m.SetClass(5, 2, class)
	return m, class
}

// given asks for a name of one label, and reports whether the kernel answers.
func (m machine) given(label string) bool {
	m.t.Helper()
	ok, _, err := m.Run(query(label))
	if err != nil {
		m.t.Fatal(err)
	}
	return ok
}

// answer returns an answer for a name of one label.
func answer(class uint32, label string, stored time.Duration) *hits.Answer {
	question := append(append([]byte{byte(len(label))}, label...), 0, 0, 1, 0, 1)
	msg := append([]byte{0, 0, 0x81, 0x80, 0, 1, 0, 1, 0, 0, 0, 0}, question...)
	end := len(msg)
	msg = append(msg, 0xC0, 12, 0, 1, 0, 1, 0, 0, 1, 0, 0, 4, 192, 0, 2, 1)
	return &hits.Answer{Class: class, Msg: msg, QEnd: end, TTLs: []uint16{uint16(end + 6)},
		Stored: stored, Refresh: stored + time.Hour, Expires: stored + time.Hour, Tag: []byte(label)}
}

// query returns a frame with a query for a name of one label.
func query(label string) []byte {
	dns := append([]byte{0, 1, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, byte(len(label))}, label...)
	dns = append(dns, 0, 0, 1, 0, 1)
	frame := append(append(append([]byte(nil), hitstest.Inner[:]...), hitstest.Host[:]...), 0x08, 0)
	n := 28 + len(dns)
	frame = append(frame, 0x45, 0, byte(n>>8), byte(n), 0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 0, 1)
	frame = append(frame, hitstest.Virtual4(5).AsSlice()...)
	return append(append(frame, 0x9C, 0x40, 0, 53, 0, byte(8+len(dns)), 0, 0), dns...)
}

// TestTable fills a small table more than once: used answers stay, and the tags of others are
// reported.
func TestTable(t *testing.T) {
	labtest.NeedRoot(t)
	m, class := start(t, 16)
	now := hits.Now()
	for i := range 60 {
		label := fmt.Sprintf("label-%02d", i)
		if !m.Store(answer(class, label, now), m.Generation()) || !m.given(label) || i > 0 && !m.given("label-00") {
			t.Fatalf("%s: not stored, or the used answer was evicted", label)
		}
		for range 3 {
			m.given("label-00")
		}
	}
	s, err := m.Stats()
	if err != nil || s.Entries > 16 || s.Evicted < 40 || s.Verdicts["answered"] < 200 || s.MaxEntries != 20 {
		t.Errorf("%+v, %v", s, err)
	}
	if n := len(m.Evicted()); n != int(s.Evicted) || slices.Contains(m.Evicted(), "label-00") {
		t.Errorf("%d evicted, of which reported: %v", s.Evicted, m.Evicted())
	}
	used := map[string]uint64{}
	m.Sweep(func(tag []byte, n uint64) { used[string(tag)] += n })
	if used["label-00"] < 200 || used["label-59"] != 1 {
		t.Errorf("used: %v", used)
	}
	if r := m.Replies(5); r.NoError != s.Verdicts["answered"] || r.NXDomain != 0 {
		t.Errorf("%+v of %+v", r, s.Verdicts)
	}
	m.checkLife(answer(class, "label-59", now))
	m.Stop()
	if m.Store(answer(class, "late", now), m.Generation()) || !m.given("label-00") {
		t.Error("stored after Stop, or nothing is given any more")
	}
}

// TestNames stores answers for names of every length from 2 on, each a prefix of the next, and asks for them and for names that differ in
// one byte.
func TestNames(t *testing.T) {
	labtest.NeedRoot(t)
	m, class := start(t, 64)
	now := hits.Now()
	for n := 2; n <= 63; n++ {
		label := strings.Repeat("x", n)
		if !m.Store(answer(class, label, now), m.Generation()) {
			t.Fatalf("%d bytes: not stored", n)
		}
	}
	for n := 2; n <= 63; n++ {
		label := strings.Repeat("x", n)
		if !m.given(label) || !m.given(strings.ToUpper(label)) {
			t.Errorf("%d bytes: not given", n)
		}
		for at := range n {
			if m.given(label[:at] + "y" + label[at+1:]) {
				t.Errorf("%d bytes: given for a name with another byte %d", n, at)
			}
		}
	}
}

// checkLife stores an answer with several times.
func (m machine) checkLife(a *hits.Answer) {
	m.t.Helper()
	const before = -20 * time.Millisecond // the program's clock may be a tick behind
	for _, c := range []struct {
		what             string
		refresh, expires time.Duration
		works, want      bool
	}{
		{"fresh", time.Hour, time.Hour, true, true},
		{"to be refreshed", before, time.Hour, true, false},
		{"to be refreshed, but no process works", before, time.Hour, false, true},
		{"expired", before, before, false, false},
	} {
		now := hits.Now()
		a.Refresh, a.Expires = now+c.refresh, now+c.expires
		if c.works {
			m.Heartbeat()
		} else {
			m.NoHeartbeat()
		}
		if !m.Store(a, m.Generation()) || m.given(string(a.Tag)) != c.want {
			m.t.Errorf("%s: given is %v, or not stored", c.what, !c.want)
		}
	}
}

// TestNotStored lists what does not fit into an entry.
func TestNotStored(t *testing.T) {
	labtest.NeedRoot(t)
	m := hitstest.New(t, 16)
	now := hits.Now()
	for what, change := range map[string]func(a *hits.Answer){
		"no class":           func(a *hits.Answer) { a.Class = 0 },
		"a long name":        func(a *hits.Answer) { a.QEnd += 130; a.Msg = append(a.Msg, make([]byte, 200)...) },
		"a long answer":      func(a *hits.Answer) { a.Msg = append(a.Msg, make([]byte, 1300)...) },
		"many records":       func(a *hits.Answer) { a.TTLs = make([]uint16, 17) },
		"a TTL at the start": func(a *hits.Answer) { a.TTLs = []uint16{4} },
		"a TTL at the end":   func(a *hits.Answer) { a.TTLs = []uint16{uint16(len(a.Msg) - 3)} },
		"nothing":            func(a *hits.Answer) { a.Msg = a.Msg[:a.QEnd]; a.TTLs = nil },
		"no life":            func(a *hits.Answer) { a.Expires = a.Stored - 1 },
	} {
		a := answer(1, "label", now)
		if change(a); m.Store(a, m.Generation()) {
			t.Errorf("%s: stored", what)
		}
	}
	if !m.Store(answer(1, "label", now), m.Generation()) || m.Store(answer(1, "label", now), m.Generation()-1) {
		t.Error("the generation in force is not accepted, or another one is")
	}
}
