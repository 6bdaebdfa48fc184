// SPDX-License-Identifier: Apache-2.0

package dnssec

import (
	"bytes"
	"context"
	"encoding/base64"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"

	"sotto/forwarder/wire"
)

// TestKeyTrap: the work for a hostile zone is limited (CVE-2023-50387): many keys with the same
// tag, many wrong signatures, and both.
func TestKeyTrap(t *testing.T) {
	for _, tc := range []struct {
		what       string
		keys, sigs int
		most       uint64 // signatures
	}{
		{"keys", 20, 0, 8}, {"signatures", 0, 200, 16}, {"both", 20, 200, 24}, {"many keys", 500, 500, 6},
	} {
		w, v := newWorld(t)
		z := w.zones["a15.test."]
		for range tc.keys {
			z.add(sameTag(z.key))
		}
		w.change = func(q dns.Question, r *dns.Msg) {
			if q.Name != "www.a15.test." {
				return
			}
			var wrong []dns.RR
			for _, rr := range r.Answer {
				if sig, ok := rr.(*dns.RRSIG); ok {
					for range tc.sigs {
						bad := dns.Copy(sig).(*dns.RRSIG)
						bad.Signature = base64.StdEncoding.EncodeToString(random(64))
						wrong = append(wrong, bad)
					}
				}
			}
			r.Answer = append(wrong, r.Answer...)
		}
		start := time.Now()
		for range 10 {
			if r, err := ask(v, "www.a15.test.", dns.TypeA, true); tc.sigs > 0 && err == nil {
				t.Errorf("%s: %v: want an error", tc.what, r)
			}
		}
		st := v.Stats()
		t.Logf("%s: %d signatures verified for ten queries in %v", tc.what, st.Signatures, time.Since(start).Round(time.Millisecond))
		if limit := tc.most * 10; st.Signatures > limit {
			t.Errorf("%s: %d signatures were verified: want at most %d", tc.what, st.Signatures, limit)
		}
	}
}

// sameTag returns a key with the same tag as k.
func sameTag(k *dns.DNSKEY) dns.RR {
	other := dns.Copy(k).(*dns.DNSKEY)
	public := random(32)
	sum := int(k.Flags) + 3<<8 + int(k.Algorithm)
	for i := 2; i < len(public); i += 2 {
		sum += int(public[i])<<8 | int(public[i+1])
	}
	want := k.KeyTag()
	for n := range 1 << 16 {
		if s := sum + n; uint16(s+s>>16) == want {
			public[0], public[1] = byte(n>>8), byte(n)
			break
		}
	}
	other.PublicKey = base64.StdEncoding.EncodeToString(public)
	return other
}

func random(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(rand.Uint32())
	}
	return b
}

// genuine are replies, by question, and their records without TTL.
type genuine struct {
	raw     []byte
	rcode   int
	records map[string]bool
}

func withoutTTL(rr dns.RR) string {
	c := dns.Copy(rr)
	c.Header().Ttl = 0
	return strings.ToLower(c.String())
}

// replies returns the replies to a few questions.
func replies(t testing.TB, w *world) (all []genuine) {
	t.Helper()
	known := map[string]bool{}
	for _, q := range []string{"www A", "nx A", "q.w A", "alias A", "ent A", "www.dn A", "y.w A", "plain DS"} {
		name, typ, _ := strings.Cut(q, " ")
		raw, err := w.Exchange(context.Background(), wire.AppendLookup(nil, []byte(wireName(name+".a13.test.")), dns.StringToType[typ]), time.Time{})
		if err != nil {
			t.Fatal(err)
		}
		m := new(dns.Msg)
		if err := m.Unpack(raw); err != nil {
			t.Fatal(err)
		}
		for _, rr := range m.Answer {
			known[withoutTTL(rr)] = true
		}
		all = append(all, genuine{raw, m.Rcode, known})
	}
	return all
}

// checkMutated validates a reply of which bytes were changed: if it is secure, then its records and
// its rcode are genuine. Each change is an offset, of two bytes, and a value.
func checkMutated(t *testing.T, v *Validator, g genuine, changes []byte) {
	t.Helper()
	raw := bytes.Clone(g.raw)
	for ; len(changes) >= 3; changes = changes[3:] {
		raw[(int(changes[0])<<8|int(changes[1]))%len(raw)] = changes[2]
	}
	if !wire.SameQuestion(raw, g.raw) {
		return // the forwarder does not accept it
	}
	out, err := v.check(context.Background(), raw, true, time.Now().Add(time.Minute))
	if err != nil || len(out) < wire.HeaderLen || out[3]&0x20 == 0 {
		return
	}
	m := new(dns.Msg)
	if err := m.Unpack(out); err != nil {
		return // wire.ParseReply refuses it
	}
	if m.Rcode != g.rcode {
		t.Fatalf("%s is secure: want %s\n%v", dns.RcodeToString[m.Rcode], dns.RcodeToString[g.rcode], m)
	}
	for _, rr := range m.Answer {
		if rr.Header().Rrtype == dns.TypeRRSIG {
			continue // another, wrong one may stand beside the right one
		}
		if !g.records[withoutTTL(rr)] {
			t.Fatalf("%v is secure: %v", rr, m)
		}
	}
}

// TestMutated: no change of a byte makes a reply say something else and stay secure.
func TestMutated(t *testing.T) {
	w, v := newWorld(t)
	for _, g := range replies(t, w) {
		for at := 2; at < len(g.raw); at++ {
			checkMutated(t, v, g, []byte{byte(at >> 8), byte(at), g.raw[at] ^ byte(1<<rand.IntN(8))})
		}
	}
}

func FuzzReply(f *testing.F) {
	w, v := newWorld(f)
	all := replies(f, w)
	for i := range all {
		f.Add(uint8(i), []byte{0, 3, 0})
	}
	f.Fuzz(func(t *testing.T, which uint8, changes []byte) { checkMutated(t, v, all[int(which)%len(all)], changes) })
}
