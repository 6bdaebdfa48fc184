// SPDX-License-Identifier: Apache-2.0

package exec

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"net/netip"
	"regexp"
	"strings"
	"testing"
	"time"

	"sotto/internal/dnstest"
	"sotto/internal/e2e"
	"sotto/internal/netlab"
	"sotto/internal/netlab/labtest"
)

// loggedParts matches the parts of the output of dig that the test logs.
var loggedParts = regexp.MustCompile(`EDE: .*|Query time: .*`)

// TestFailures checks that when the upstream fails in any way, a sealed client receives
// SERVFAIL with the reason, in time, and no plain query is sent instead.
func TestFailures(t *testing.T) {
	w := newWorld(t)
	w.Watch()
	labtest.NeedTool(t, "dig")
	other, err := dnstest.NewCA()
	if err != nil {
		t.Fatal(err)
	}
	zone := w.Zone(e2e.Sealed4, e2e.Sealed6)
	good := dnstest.CertOptions{Names: []string{e2e.UpstreamName}, IPs: []netip.Addr{netip.MustParseAddr(netlab.LANAddr4)}}
	wrongName := dnstest.CertOptions{Names: []string{"other.example"}}
	expired := good
	expired.NotBefore, expired.NotAfter = time.Now().Add(-48*time.Hour), time.Now().Add(-24*time.Hour)
	for _, tc := range []struct {
		name    string
		ca      *dnstest.CA
		cert    dnstest.CertOptions
		handler dnstest.Handler
		want    string // in the text of the Extended DNS Error
	}{
		{"wrong name", w.CA, wrongName, zone, "other.example"},
		{"unknown authority", other, good, zone, "untrusted CA"},
		{"expired", w.CA, expired, zone, "expired"},
		{"silent", w.CA, good, dnstest.Silent(), ""},
		{"reset", w.CA, good, dnstest.ResetAll(), ""},
		{"garbage", w.CA, good, dnstest.Garbage(), ""},
		{"too short", w.CA, good, dnstest.Short(), ""},
		{"another question", w.CA, good, dnstest.WrongQuestion(zone), ""},
		{"another ID", w.CA, good, dnstest.WrongID(zone), ""},
		{"truncated frame", w.CA, good, dnstest.TruncatedFrame(zone), ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			cert, err := tc.ca.Issue(tc.cert)
			if err != nil {
				t.Fatal(err)
			}
			w.Upstream.SetCertificate(cert)
			w.Handler.Set(tc.handler)
			stdout, stderr, status := w.Exec("dig", "+tries=1", "+timeout=5", "@8.8.8.8", "www.example.com")
			if status != 0 || !strings.Contains(stdout, "status: SERVFAIL") || !strings.Contains(stdout, "EDE: ") || !strings.Contains(stdout, tc.want) {
				t.Errorf("status %d: want SERVFAIL with an EDE that contains %q\n%s%s", status, tc.want, stdout, stderr)
			}
			t.Log(loggedParts.FindAllString(stdout, -1))
		})
	}
}

// TestFailover checks that the second upstream is used when the first is unreachable.
func TestFailover(t *testing.T) {
	w := newWorld(t)
	w.Watch()
	args := []string{"exec", "--upstream", "10.77.0.99#" + e2e.UpstreamName} // no host has this address
	args = append(append(args, w.UpstreamArgs()...), "--", "dig", "+short", "+tries=1", "@8.8.8.8", "www.example.com")
	stdout, stderr, status := w.Sotto(args...)
	if status != 0 || stdout != e2e.Sealed4+"\n" {
		t.Errorf("status %d: %q %q", status, stdout, stderr)
	}
}

// TestPins checks that an upstream is used only if its key has the pin.
func TestPins(t *testing.T) {
	w := newWorld(t)
	w.Watch()
	pin := spkiPin(w.CA.Certificate())
	for _, tc := range []struct{ pin, want string }{
		{pin, e2e.Sealed4}, {"sha256/AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=", "pin"},
	} {
		args := append(append([]string{"exec", "--pin", tc.pin}, w.UpstreamArgs()...), "--", "dig", "+tries=1", "@8.8.8.8", "www.example.com")
		stdout, stderr, status := w.Sotto(args...)
		if status != 0 || !strings.Contains(stdout, tc.want) {
			t.Errorf("pin %s: status %d, no %q in\n%s%s", tc.pin, status, tc.want, stdout, stderr)
		}
	}
}

func spkiPin(c *x509.Certificate) string {
	sum := sha256.Sum256(c.RawSubjectPublicKeyInfo)
	return "sha256/" + base64.StdEncoding.EncodeToString(sum[:])
}
