// SPDX-License-Identifier: Apache-2.0

package shared

import (
	"bytes"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"testing"
	"time"

	"github.com/miekg/dns"

	"sotto/forwarder/wire"
)

var (
	t0      = time.Unix(1_700_000_000, 5)
	secret  = []byte("a secret of thirty-two bytes ...")
	another = []byte("some other secret of 32 bytes or so")
)

// exchange returns the key and the reply for a name with an address and an EDE.
func exchange(t testing.TB, name string) (key []byte, r wire.Reply) {
	t.Helper()
	m := new(dns.Msg)
	m.SetQuestion(name, dns.TypeA)
	m.SetEdns0(1232, true)
	b, err := m.Pack()
	if err != nil {
		t.Fatal(err)
	}
	q, err := wire.ParseQuery(b)
	if err != nil {
		t.Fatal(err)
	}
	resp := new(dns.Msg)
	resp.SetReply(m)
	rr, err := dns.NewRR(name + " 300 IN A 192.0.2.7")
	if err != nil {
		t.Fatal(err)
	}
	resp.Answer = []dns.RR{rr}
	resp.SetEdns0(1232, true)
	resp.IsEdns0().Option = []dns.EDNS0{&dns.EDNS0_EDE{InfoCode: dns.ExtendedErrorCodeNetworkError, ExtraText: "why"}}
	if b, err = resp.Pack(); err != nil {
		t.Fatal(err)
	}
	if r, err = wire.ParseReply(b); err != nil {
		t.Fatal(err)
	}
	return append(wire.AppendKey(nil, &q), "identity"...), r
}

func codecs(t testing.TB) map[string]*codec {
	t.Helper()
	out := map[string]*codec{}
	for name, s := range map[string][]byte{"plain": nil, "sealed": secret} {
		c, err := newCodec("sotto:", s)
		if err != nil {
			t.Fatal(err)
		}
		out[name] = &c
	}
	return out
}

func encode(t testing.TB, c *codec, key []byte, r *wire.Reply, stored time.Time) []byte {
	t.Helper()
	v, err := c.encode(key, r, stored)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// TestRoundTrip: an answer comes back as it was, with its EDEs and the time when it was stored.
func TestRoundTrip(t *testing.T) {
	key, r := exchange(t, "WWW.example.")
	for name, c := range codecs(t) {
		value := encode(t, c, key, &r, t0)
		a, err := c.decode(bytes.Clone(value), key, t0)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if !a.Stored.Equal(t0) || !bytes.Equal(a.Reply.Msg[wire.HeaderLen:], r.Msg[wire.HeaderLen:]) || a.Reply.TTL != 300 || len(a.Reply.EDE) != 1 || a.Reply.EDE[0].Text != "why" {
			t.Errorf("%s: %+v", name, a)
		}
		if extra := len(value) - len(r.Msg) - len(key); extra > bodyHead+overhead+64 {
			t.Errorf("%s: %d bytes more than key and message", name, extra)
		}
	}
}

// TestSealedHidesNames: with a secret neither the name of an entry nor its value contains the
// name of the question, and instances with other secrets use other names.
func TestSealedHidesNames(t *testing.T) {
	key, r := exchange(t, "private.example.")
	c := codecs(t)["sealed"]
	if v := encode(t, c, key, &r, t0); bytes.Contains(v, []byte("private")) {
		t.Errorf("the value contains the name: %q", v)
	}
	other, err := newCodec("sotto:", another)
	if err != nil {
		t.Fatal(err)
	}
	if c.name(key) == other.name(key) || c.name(key) == codecs(t)["plain"].name(key) {
		t.Error("the name of an entry does not depend on the secret")
	}
	if _, err := newCodec("", secret[:MinSecret-1]); err == nil {
		t.Error("a short secret is accepted")
	}
}

// TestRejectsOtherValues: no changed bit, cut, other key, other secret and other kind of value
// is accepted.
func TestRejectsOtherValues(t *testing.T) {
	key, r := exchange(t, "www.example.")
	key2, r2 := exchange(t, "ww2.example.")
	all := codecs(t)
	for name, c := range all {
		good := encode(t, c, key, &r, t0)
		for i := range good {
			for bit := range 8 {
				bad := bytes.Clone(good)
				bad[i] ^= 1 << bit
				if _, err := c.decode(bad, key, t0); err == nil {
					t.Errorf("%s: bit %d of byte %d is not checked", name, bit, i)
				}
			}
			if _, err := c.decode(bytes.Clone(good[:i]), key, t0); err == nil {
				t.Errorf("%s: %d of %d bytes are accepted", name, i, len(good))
			}
		}
		for what, v := range map[string]struct {
			value, key []byte
			want       error
		}{
			"another question":    {encode(t, c, key2, &r2, t0), key, nil},
			"another group":       {bytes.Clone(good), append(bytes.Clone(key), 'x'), nil},
			"an answer to others": {encode(t, c, key, &r2, t0), key, errKey},
			"the future":          {encode(t, c, key, &r, t0.Add(clockSlack+time.Second)), key, errFuture},
			"before 1970":         {encode(t, c, key, &r, time.Unix(-1, 0)), key, errFuture},
			"nothing":             {nil, key, errShort},
		} {
			_, err := c.decode(v.value, v.key, t0)
			if err == nil || v.want != nil && !errors.Is(err, v.want) {
				t.Errorf("%s: %s: error %v, want %v", name, what, err, v.want)
			}
		}
	}
	if _, err := all["plain"].decode2(t, all["sealed"], key, &r); !errors.Is(err, errVersion) {
		t.Errorf("a sealed value without a secret: %v", err)
	}
	if _, err := all["sealed"].decode2(t, all["plain"], key, &r); !errors.Is(err, errVersion) {
		t.Errorf("a value without a secret where one is set: %v", err)
	}
}

// decode2 decodes what another codec encodes.
func (c *codec) decode2(t *testing.T, from *codec, key []byte, r *wire.Reply) (Answer, error) {
	return c.decode(encode(t, from, key, r, t0), key, t0)
}

// FuzzDecode: no value crashes, and an answer is for the question asked. The checksum is made
// valid, so that what follows it is reached.
func FuzzDecode(f *testing.F) {
	c := codecs(f)["plain"]
	key, r := exchange(f, "www.example.")
	good := encode(f, c, key, &r, t0)
	f.Add(good[1:len(good)-sumLen], key)
	f.Add([]byte{}, key)
	f.Add(good[1:len(good)-sumLen], []byte{})
	f.Fuzz(func(t *testing.T, body, key []byte) {
		value := append([]byte{versionPlain}, body...)
		value = binary.BigEndian.AppendUint32(value, crc32.Checksum(value, castagnoli))
		_, _ = codecs(t)["sealed"].decode(bytes.Clone(value), key, t0)
		_, _ = c.decode(bytes.Clone(body), key, t0)
		a, err := c.decode(value, key, t0)
		if err != nil {
			return
		}
		question := a.Reply.Msg[wire.HeaderLen:a.Reply.QEnd]
		if !bytes.EqualFold(question[:len(question)-4], key[:len(question)-4]) || !bytes.Equal(question[len(question)-4:], key[len(question)-4:len(question)]) {
			t.Errorf("key %x, question %x", key, question)
		}
		if a.Stored.After(t0.Add(clockSlack)) {
			t.Errorf("stored at %v", a.Stored)
		}
	})
}
