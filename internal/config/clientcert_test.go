// SPDX-License-Identifier: Apache-2.0

package config

import (
	"bytes"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"sotto/internal/dnstest"
)

// clientPair returns a certificate for a client and its key, in PEM.
func clientPair(t *testing.T) [2]string {
	t.Helper()
	ca, err := dnstest.NewCA()
	if err != nil {
		t.Fatal(err)
	}
	c, err := ca.Issue(dnstest.CertOptions{Names: []string{"client.example"}, Client: true})
	if err != nil {
		t.Fatal(err)
	}
	cert, key, err := dnstest.PEMPair(c)
	if err != nil {
		t.Fatal(err)
	}
	return [2]string{string(cert), string(key)}
}

// TestClientCert: each group has its own certificate, also from one file with both parts. A
// group with another certificate, or another text of its file, is another group.
func TestClientCert(t *testing.T) {
	a, b := clientPair(t), clientPair(t)
	f := files{"a.pem": a[0], "a.key": a[1], "b.pem": b[1] + b[0]}
	text := "client-cert = \"a.pem\"\nclient-key = \"a.key\"\n" + aGroup + "client-cert = \"b.pem\"\nclient-key = \"b.pem\"\n" +
		strings.Replace(aGroup, "work", "none", 1)
	_, p, err := planText(text, Options{Read: f.read})
	if err != nil {
		t.Fatal(err)
	}
	first, work, none := p.Groups[DefaultGroup], p.Groups["work"], p.Groups["none"]
	if first.Config.ClientCert == nil || work.Config.ClientCert == nil || none.Config.ClientCert != nil {
		t.Fatalf("certificates %v, %v, %v: want two", first.Config.ClientCert, work.Config.ClientCert, none.Config.ClientCert)
	}
	if bytes.Equal(first.Config.ClientCert.Certificate[0], work.Config.ClientCert.Certificate[0]) {
		t.Error("both groups have the same certificate")
	}
	if work.Key == none.Key {
		t.Error("groups with and without a certificate are the same")
	}
	f["b.pem"] = a[0] + a[1]
	_, again, err := planText(text, Options{Read: f.read})
	if err != nil {
		t.Fatal(err)
	}
	if again.Groups["work"].Key == work.Key || again.Groups[DefaultGroup].Key != first.Key {
		t.Error("the key of a group does not follow the contents of its files")
	}
}

// TestClientKeyPermissions: a key that every user can read is reported.
func TestClientKeyPermissions(t *testing.T) {
	pair := clientPair(t)
	cert, key := filepath.Join(t.TempDir(), "cert.pem"), filepath.Join(t.TempDir(), "key.pem")
	for path, text := range map[string]string{cert: pair[0], key: pair[1]} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for mode, warned := range map[os.FileMode]bool{0o600: false, 0o640: false, 0o644: true} {
		if err := os.Chmod(key, mode); err != nil {
			t.Fatal(err)
		}
		_, p, err := planText("client-cert = \""+cert+"\"\nclient-key = \""+key+"\"\n", Options{Read: ReadFile})
		if err != nil {
			t.Fatal(err)
		}
		var out bytes.Buffer
		p.Warn(slog.New(slog.NewTextHandler(&out, nil)))
		if got := strings.Contains(out.String(), "chmod 600"); got != warned {
			t.Errorf("mode %o: warned: %v, want %v\n%s", mode, got, warned, out.String())
		}
	}
}

// TestProxy: each group has its own proxy, and one with another proxy is another group.
func TestProxy(t *testing.T) {
	plan := func(proxy string) Plan {
		t.Helper()
		_, p, err := planText("proxy = \"http://192.0.2.8:3128\"\n"+aGroup+proxy, Options{})
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	with, without := plan("proxy = \"socks5://u:p@192.0.2.9:1080\"\n"), plan("")
	if p := with.Groups[DefaultGroup].Config.Proxy; p == nil || p.String() != "http://192.0.2.8:3128" {
		t.Errorf("the default group has the proxy %v", p)
	}
	if p := with.Groups["work"].Config.Proxy; p == nil || p.String() != "socks5://192.0.2.9:1080" || p.Password != "p" {
		t.Errorf("the named group has the proxy %v", p)
	}
	if without.Groups["work"].Config.Proxy != nil {
		t.Error("the named group has the proxy of the default group")
	}
	if with.Groups["work"].Key == without.Groups["work"].Key || with.Groups[DefaultGroup].Key != without.Groups[DefaultGroup].Key {
		t.Error("the key of a group does not follow its proxy")
	}
}
