// SPDX-License-Identifier: Apache-2.0

package secure

import (
	"crypto/tls"
	"crypto/x509"
	"slices"
	"testing"
	"time"

	"sotto/internal/dnstest"
)

// chain returns the certificate of a server, and the chain that verifies it. It expires after that time.
func chain(t *testing.T, ca *dnstest.CA, life time.Duration) (sent []*x509.Certificate, chains [][]*x509.Certificate) {
	t.Helper()
	cert, err := ca.Issue(dnstest.CertOptions{Names: []string{"dns.example"}, NotAfter: time.Now().Add(life)})
	if err != nil {
		t.Fatal(err)
	}
	for _, der := range cert.Certificate {
		c, err := x509.ParseCertificate(der)
		if err != nil {
			t.Fatal(err)
		}
		sent = append(sent, c)
	}
	chains, err = sent[0].Verify(x509.VerifyOptions{Roots: ca.Pool()})
	if err != nil {
		t.Fatal(err)
	}
	return sent, chains
}

// TestVerifiedChain lists when a verification has to be repeated.
func TestVerifiedChain(t *testing.T) {
	ca, err := dnstest.NewCA()
	if err != nil {
		t.Fatal(err)
	}
	roots := ca.Pool()
	sent, chains := chain(t, ca, 24*time.Hour)
	short, shortChains := chain(t, ca, 10*time.Minute)
	now := time.Now()
	long, brief := newVerifiedChain(sent, roots, chains, now), newVerifiedChain(short, roots, shortChains, now)
	parsed, err := x509.ParseCertificate(sent[0].Raw)
	if err != nil {
		t.Fatal(err)
	}
	again := append([]*x509.Certificate{parsed}, sent[1:]...)
	for what, c := range map[string]struct {
		known *verifiedChain
		sent  []*x509.Certificate
		roots *x509.CertPool
		after time.Duration
		want  bool
	}{
		"the same":                        {long, sent, roots, 0, true},
		"the same, parsed again":          {long, again, roots, time.Minute, true},
		"none yet":                        {nil, sent, roots, 0, false},
		"after its time":                  {long, sent, roots, knownTime, false},
		"before it":                       {long, sent, roots, -time.Minute, false},
		"a certificate that expires soon": {brief, short, roots, 9 * time.Minute, true},
		"an expired certificate":          {brief, short, roots, 11 * time.Minute, false},
		"another certificate":             {long, short, roots, 0, false},
		"one certificate more":            {long, append(slices.Clone(sent), short[0]), roots, 0, false},
		"other roots":                     {long, sent, ca.Pool(), 0, false},
	} {
		if got := c.known.holds(c.sent, c.roots, now.Add(c.after)); got != c.want {
			t.Errorf("%s: holds is %v", what, got)
		}
	}
}

// TestKnownGroup lists the groups that a handshake offers.
func TestKnownGroup(t *testing.T) {
	all := []tls.CurveID{tls.X25519MLKEM768, tls.X25519, tls.CurveP256, tls.CurveP384, tls.CurveP521}
	s := &Sessions{}
	offered := func(classic bool) []tls.CurveID {
		return keyExchanges(&Handshake{sessions: s, Classic: classic, group: s.group()})
	}
	if !slices.Equal(offered(false), all) || !slices.Equal(offered(true), all[1:]) {
		t.Error("an unknown server is not offered all groups")
	}
	s.setGroup(tls.CurveP384)
	want := []tls.CurveID{tls.CurveP384, tls.X25519, tls.CurveP256, tls.CurveP521}
	if !slices.Equal(offered(false), want) || !slices.Equal(offered(true), want) {
		t.Errorf("a server that chose P-384 is offered %v", offered(false))
	}
	s.known.until = time.Now().Add(-time.Second)
	if !slices.Equal(offered(false), all) {
		t.Error("it is not offered all groups after an hour")
	}
	s.setGroup(tls.X25519)
	s.setGroup(tls.X25519MLKEM768)
	if !slices.Equal(offered(false), all) {
		t.Error("it is not offered X25519MLKEM768 although it chose that")
	}
}
