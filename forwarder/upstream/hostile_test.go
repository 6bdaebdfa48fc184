// SPDX-License-Identifier: Apache-2.0

package upstream

import (
	"bytes"
	"crypto/tls"
	"encoding/binary"
	"log/slog"
	"strings"
	"testing"
	"time"

	"sotto/forwarder/upstream/servertest"
	"sotto/forwarder/upstream/transport"
	"sotto/forwarder/wire"
	"sotto/internal/dnstest"
)

// changed answers like the zone, and then changes the message.
func changed(z *dnstest.Zone, change func([]byte) []byte) dnstest.Handler {
	return dnstest.HandlerFunc(func(r *dnstest.Request) dnstest.Answer {
		a := z.Answer(r)
		a.Msg = change(bytes.Clone(a.Msg))
		return a
	})
}

// TestHostileReplies: a message that does not answer the query is never accepted: another
// server is asked, or the query fails with a reason. See the table in doc.go.
func TestHostileReplies(t *testing.T) {
	z := servertest.Zone(t)
	good := servertest.Serve(t, z, nil)
	name := 12 // offset of the question
	poison := []byte{0xc0, 0x0c, 0, 1, 0, 1, 0, 0, 0x0e, 0x10, 0, 4, 6, 6, 6, 6}
	for what, change := range map[string]func([]byte) []byte{
		"not a reply (QR=0)":    func(m []byte) []byte { m[2] &^= 0x80; return m },
		"another opcode":        func(m []byte) []byte { m[2] |= 0x28; return m },
		"another type":          func(m []byte) []byte { end := bytes.IndexByte(m[name:], 0) + name; m[end+2] ^= 0x1c; return m },
		"another class":         func(m []byte) []byte { end := bytes.IndexByte(m[name:], 0) + name; m[end+4] = 3; return m },
		"two questions":         func(m []byte) []byte { m[5] = 2; return m },
		"wrong counts":          func(m []byte) []byte { m[7] += 3; return m },
		"very wrong counts":     func(m []byte) []byte { binary.BigEndian.PutUint16(m[6:], 0xffff); return m },
		"cut in a record":       func(m []byte) []byte { return m[:len(m)-3] },
		"a name that is a loop": func(m []byte) []byte { return append(setCount(m, 1), 0xc0, byte(len(m)), 0, 1, 0, 1, 0, 0, 0, 1, 0, 0) },
		"a forward pointer": func(m []byte) []byte {
			return append(setCount(m, 1), 0xc0, byte(len(m)+4), 0, 1, 0, 1, 0, 0, 0, 1, 0, 0)
		},
		"a pointer into the header": func(m []byte) []byte { return append(setCount(m, 1), 0xc0, 0x02, 0, 1, 0, 1, 0, 0, 0, 1, 0, 0) },
		"data beyond the end":       func(m []byte) []byte { b := append(setCount(m, 1), poison...); b[len(b)-5] = 200; return b },
		"only a header":             func(m []byte) []byte { return m[:12] },
		"only zeros":                func(m []byte) []byte { return append(m[:2:2], make([]byte, 40)...) },
		"a label that is a type":    func(m []byte) []byte { m[name] = 0x80; return m },
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			bad := servertest.Serve(t, changed(z, change), nil)
			cfg := hasty(bad, good)
			reply := servertest.MustAsk(t, groupOf(t, cfg), "www.example.")
			if bytes.Contains(reply, []byte{6, 6, 6, 6}) {
				t.Errorf("accepted as an answer: %x", reply)
			}
			if reply, err := servertest.Ask(t, groupOf(t, hasty(bad)), "www.example."); err == nil {
				// It is returned because there is no better one; the forwarder rejects it.
				if _, err := wire.ParseReply(reply); err == nil {
					t.Errorf("accepted as an answer: %x", reply)
				}
			}
		})
	}
}

// TestTrailingBytes: bytes after the last record are accepted from any server, and no other
// server is asked.
func TestTrailingBytes(t *testing.T) {
	z := servertest.Zone(t)
	other := servertest.Serve(t, z, nil)
	for what, change := range map[string]func([]byte) []byte{
		"a byte":    func(m []byte) []byte { return append(m, 0) },
		"a message": func(m []byte) []byte { return append(m, m...) },
	} {
		s := servertest.Serve(t, changed(z, change), nil)
		want, err := wire.ParseReply(servertest.MustAsk(t, group(t, other), "www.example."))
		if err != nil {
			t.Fatal(err)
		}
		before := other.Stats().Queries()
		got, err := wire.ParseReply(servertest.MustAsk(t, group(t, s, other), "www.example."))
		if err != nil || !bytes.Equal(got.Msg, want.Msg) {
			t.Errorf("%s: %x, %v, want %x", what, got.Msg, err, want.Msg)
		}
		if n := other.Stats().Queries() - before; n != 0 {
			t.Errorf("%s: another server was asked", what)
		}
	}
}

// setCount cuts a message after its question and sets the number of answers, which the
// caller appends.
func setCount(m []byte, n byte) []byte {
	end := 12 + bytes.IndexByte(m[12:], 0) + 5
	m = m[:end:end]
	m[6], m[7], m[8], m[9], m[10], m[11] = 0, n, 0, 0, 0, 0
	return m
}

// TestRepeatedReplies: a reply that is sent twice, and replies that match no query, change
// no answer. The connection to a server that sends nothing else is closed.
func TestRepeatedReplies(t *testing.T) {
	z := servertest.Zone(t)
	twice := dnstest.HandlerFunc(func(r *dnstest.Request) dnstest.Answer {
		a := z.Answer(r)
		a.Raw = append(dnstest.Frame(a.Msg), dnstest.Frame(a.Msg)...)
		a.Msg = nil
		return a
	})
	g := group(t, servertest.Serve(t, twice, nil))
	for range 20 {
		if r := servertest.MustAsk(t, g, "www.example."); wire.Rcode(r) != wire.RcodeSuccess {
			t.Errorf("rcode %d", wire.Rcode(r))
		}
	}
	flood := dnstest.HandlerFunc(func(r *dnstest.Request) dnstest.Answer {
		a := dnstest.WrongID(z).Answer(r)
		return dnstest.Answer{Raw: bytes.Repeat(dnstest.Frame(a.Msg), 2048)}
	})
	bad := servertest.Serve(t, flood, nil)
	_, err := servertest.Ask(t, groupOf(t, hasty(bad)), "www.example.")
	servertest.WantEDE(t, err, wire.EDENetworkError, "do not match")
	if st := bad.Stats(); st.Open > 1 {
		t.Errorf("stats %+v", st)
	}
}

// TestTruncatedReply: if a reply over TLS is truncated, another server is asked for the
// complete one.
func TestTruncatedReply(t *testing.T) {
	z := servertest.Zone(t)
	cut := servertest.Serve(t, changed(z, func(m []byte) []byte { m = setCount(m, 0); m[2] |= 0x02; return m }), nil)
	r, err := wire.ParseReply(servertest.MustAsk(t, group(t, cut, servertest.Serve(t, z, nil)), "www.example."))
	if err != nil || r.TC || len(r.TTLs) == 0 {
		t.Errorf("%+v, %v: want the other server's answer", r, err)
	}
	r, err = wire.ParseReply(servertest.MustAsk(t, group(t, cut), "www.example."))
	if err != nil || !r.TC {
		t.Errorf("%+v, %v: want the only server's truncated reply", r, err)
	}
}

// TestLetterCase: the question is sent in its original case, and a reply in another case is
// accepted.
func TestLetterCase(t *testing.T) {
	asked := make(chan string, 1)
	z := servertest.Zone(t)
	s := servertest.Serve(t, dnstest.HandlerFunc(func(r *dnstest.Request) dnstest.Answer {
		asked <- string(r.Query[12:28])
		a := z.Answer(r)
		copy(a.Msg[12:], bytes.ToUpper(a.Msg[12:24]))
		return a
	}), nil)
	servertest.MustAsk(t, group(t, s), "wWw.exAmple.")
	if got, want := <-asked, string(servertest.Query("wWw.exAmple.", dnstest.TypeA)[12:28]); got != want {
		t.Errorf("asked for %q, want %q", got, want)
	}
}

// TestCertificateChanges: the server restarts with another certificate. One of the same CA
// and name is accepted. With one of another CA, for another name, or that has expired, the
// server gets no query and the error names the reason; with a good one queries are answered
// again. The profile Opportunistic is not affected.
func TestCertificateChanges(t *testing.T) {
	other, err := dnstest.NewCA()
	if err != nil {
		t.Fatal(err)
	}
	foreign, err := other.Issue(dnstest.CertOptions{Names: []string{servertest.Name}})
	if err != nil {
		t.Fatal(err)
	}
	s := servertest.Serve(t, servertest.Zone(t), nil)
	strict := groupOf(t, hasty(s))
	cfg := hasty(s)
	cfg.Profile = Opportunistic
	opportunistic := groupOf(t, cfg)
	for _, step := range []struct {
		what   string
		cert   tls.Certificate
		reason string // "" if it is good
	}{
		{"renewed", servertest.Issue(t, dnstest.CertOptions{}), ""},
		{"of another CA", foreign, "an untrusted CA"},
		{"good again", servertest.Issue(t, dnstest.CertOptions{}), ""},
		{"for another name", servertest.Issue(t, dnstest.CertOptions{Names: []string{"other.example"}}), "other.example"},
		{"expired", servertest.Issue(t, dnstest.CertOptions{Names: []string{servertest.Name}, NotAfter: time.Now().Add(-time.Hour)}), "expired"},
		{"good at the end", servertest.Issue(t, dnstest.CertOptions{}), ""},
	} {
		at := s.Addr()
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		s = servertest.ServeAt(t, at, servertest.Zone(t), func(c *dnstest.Config) { c.Certificate = step.cert })
		servertest.MustAsk(t, opportunistic, "www.example.")
		if step.reason == "" {
			servertest.Eventually(t, "an answer with a certificate that is "+step.what, func() bool { _, err := servertest.Ask(t, strict, "www.example."); return err == nil })
			continue
		}
		before := s.Stats().Queries()
		// During the backoff after a failure the reason is that of the failure.
		servertest.Eventually(t, "the reason is "+step.reason, func() bool {
			_, err := servertest.Ask(t, strict, "www.example.")
			if err == nil {
				t.Fatalf("%s: it was asked", step.what)
			}
			return strings.Contains(err.Error(), step.reason)
		})
		if n := s.Stats().Queries(); n != before {
			t.Errorf("%s: it got %d queries", step.what, n-before)
		}
	}
}

// TestKeyChanges: the server restarts with a key that does not match the pin, although name
// and CA are right. It gets no query, and the log names the reason, until it has its key
// again.
func TestKeyChanges(t *testing.T) {
	var log servertest.LogBuffer
	right, wrong := servertest.Issue(t, dnstest.CertOptions{}), servertest.Issue(t, dnstest.CertOptions{})
	s := servertest.Serve(t, servertest.Zone(t), func(c *dnstest.Config) { c.Certificate = right })
	at := s.Addr()
	cfg := hasty(s)
	cfg.Servers[0].Pins = []Pin{transport.PinOf(right.Leaf)}
	cfg.Log = slog.New(slog.NewTextHandler(&log, nil))
	g := groupOf(t, cfg)
	servertest.MustAsk(t, g, "www.example.")
	restart := func(cert tls.Certificate) *dnstest.Server {
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		return servertest.ServeAt(t, at, servertest.Zone(t), func(c *dnstest.Config) { c.Certificate = cert })
	}
	s = restart(wrong)
	servertest.Eventually(t, "the log names the reason", func() bool {
		if _, err := servertest.Ask(t, g, "www.example."); err == nil {
			t.Fatal("it was asked")
		}
		return strings.Contains(log.String(), "its key does not match the pin")
	})
	if n := s.Stats().Queries(); n != 0 {
		t.Errorf("it got %d queries", n)
	}
	s = restart(right)
	servertest.Eventually(t, "it is asked again", func() bool { _, err := servertest.Ask(t, g, "www.example."); return err == nil })
	if !strings.Contains(log.String(), "upstream recovered") {
		t.Errorf("the log is\n%s", log.String())
	}
}
