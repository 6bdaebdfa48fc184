// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"log/slog"
	"net/netip"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/miekg/dns"

	"sotto/forwarder/cache"
	"sotto/forwarder/wire"
)

// dependent has three groups: without settings, with the network's prefix, and with the nameservers of
// clients, whose fallback is that.
const dependent = "upstream = [\"original\"]\noriginal-fallback = \"found\"\n" + group + `[[group]]
name = "found"
upstream = ["192.0.2.1#dns.example"]
dns64 = "auto"
`

// TestDependentAnswers: answers by a prefix that was found in the network are neither shared, nor used
// after a change of the network, nor loaded from a file. Other answers are.
func TestDependentAnswers(t *testing.T) {
	p := planOf(t, dependent)
	p.CacheFile = filepath.Join(t.TempDir(), "cache")
	log := slog.New(slog.DiscardHandler)
	r, err := newResolver(t.Context(), p, sealHooks{}, nil, log)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	}()
	members, err := r.groups.prepare(p.Groups)
	if err != nil {
		t.Fatal(err)
	}
	nameserver := members["default"].original().For(netip.MustParseAddrPort("192.0.2.53:53"))
	long := members["default"].original().For(netip.MustParseAddrPort("[fe80::1111:2222:3333:4444%a-name-of-a-device-that-is-longer-than-devices-have]:53"))
	if work := members["work"].Identity(); work == "" || members["found"].Identity() != "" || nameserver.Identity() != "" {
		t.Errorf("identities: %q, %q, %q", work, members["found"].Identity(), nameserver.Identity())
	}
	scopes := []string{members.scope("work"), members.scope("found"), nameserver.Scope(), long.Scope()}
	left := func() (left []bool) {
		for _, scope := range scopes {
			var a cache.Answer
			left = append(left, r.cache.Peek(cacheKey(t, scope), time.Now(), &a) != cache.Miss)
		}
		return left
	}
	fill := func() {
		for _, scope := range scopes {
			r.cache.Put(cacheKey(t, scope), cachedReply(t), time.Now())
		}
	}
	all, others := []bool{true, true, true, true}, []bool{true, false, false, false}
	fill()
	if got := left(); !slices.Equal(got, all) {
		t.Fatalf("stored: %v", got)
	}
	r.NetworkChanged()
	if got := left(); !slices.Equal(got, others) {
		t.Errorf("after a change of the network: %v of %q", got, scopes)
	}
	fill()
	d := &daemon{resolver: r, plan: p}
	d.log = log
	d.saveCache()
	r.cache.Flush()
	d.loadCache()
	if got := left(); !slices.Equal(got, others) {
		t.Errorf("from the file: %v of %q", got, scopes)
	}
}

// cacheKey returns the key of www.example. in a scope.
func cacheKey(t *testing.T, scope string) []byte {
	t.Helper()
	msg, err := lookup("www.example.", wire.TypeAAAA)
	if err != nil {
		t.Fatal(err)
	}
	q, err := wire.ParseQuery(msg)
	if err != nil {
		t.Fatal(err)
	}
	return append(wire.AppendKey(nil, &q), scope...)
}

// cachedReply returns an answer for www.example.
func cachedReply(t *testing.T) *wire.Reply {
	t.Helper()
	m := new(dns.Msg)
	m.SetQuestion("www.example.", dns.TypeAAAA)
	m.Response = true
	m.Answer = []dns.RR{&dns.AAAA{Hdr: dns.RR_Header{Name: "www.example.", Rrtype: dns.TypeAAAA, Class: dns.ClassINET, Ttl: 300}, AAAA: netip.MustParseAddr("2001:db8::1").AsSlice()}}
	msg, err := m.Pack()
	if err != nil {
		t.Fatal(err)
	}
	r, err := wire.ParseReply(msg)
	if err != nil {
		t.Fatal(err)
	}
	return &r
}
