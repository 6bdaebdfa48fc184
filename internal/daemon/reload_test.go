// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"sotto/internal/config"
	"sotto/internal/dnstest"
)

// TestIdentity: the host name is the identity in dnstap, but no setting, so that a reload is possible
// after a change of it.
func TestIdentity(t *testing.T) {
	host, err := os.Hostname()
	if err != nil {
		t.Skipf("skipped: %v", err)
	}
	for text, want := range map[string]string{"": host, "dnstap-identity = \"host.example\"": "host.example"} {
		p := planOf(t, text)
		if got := tapIdentity(p.Dnstap); got != want {
			t.Errorf("%q: identity %q, want %q", text, got, want)
		}
		for _, s := range fixedSettings(p) {
			if s.key == "dnstap-identity" && s.value != p.Dnstap.Identity || s.value == host {
				t.Errorf("%q: the setting %s is %q", text, s.key, s.value)
			}
		}
	}
	if p := planOf(t, ""); p.Dnstap != (config.Dnstap{Client: true, Forwarder: true}) {
		t.Errorf("by default: %+v", p.Dnstap)
	}
}

// TestSharedSettings: each setting of the shared cache is compared, also the contents of its files.
func TestSharedSettings(t *testing.T) {
	const tls = "shared-cache = \"rediss://192.0.2.6\"\n"
	ca := func() string {
		ca, err := dnstest.NewCA()
		if err != nil {
			t.Fatal(err)
		}
		return string(ca.PEM())
	}
	write := func(text string) string {
		file := filepath.Join(t.TempDir(), "file")
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return file
	}
	same := write(ca())
	for _, c := range []struct{ old, now, want string }{
		{"", "shared-cache-prefix = \"a:\"", ""},
		{"", tls, "shared-cache"},
		{tls, "", "shared-cache"},
		{tls, "shared-cache = \"rediss://sotto@192.0.2.6\"", "shared-cache"},
		{tls, tls + "shared-cache-ca-file = \"" + same + "\"", "shared-cache-ca-file"},
		{tls + "shared-cache-ca-file = \"" + same + "\"", tls + "shared-cache-ca-file = \"" + write(ca()) + "\"", "shared-cache-ca-file"},
		{tls + "shared-cache-ca-file = \"" + same + "\"", tls + "shared-cache-ca-file = \"" + same + "\"", ""},
		{tls, tls + "shared-cache-password-file = \"" + write("password") + "\"", "shared-cache-password-file"},
		{tls, tls + "shared-cache-secret-file = \"" + write(strings.Repeat("s", 32)) + "\"", "shared-cache-secret-file"},
		{tls, tls + "shared-cache-timeout = \"7ms\"", "shared-cache-timeout"},
		{tls, tls + "shared-cache-prefix = \"a:\"", "shared-cache-prefix"},
		{tls, tls + "shared-cache-max-answer = 512", "shared-cache-max-answer"},
	} {
		if got := changedSetting(fixedSettings(planOf(t, c.old)), fixedSettings(planOf(t, c.now))); got != c.want {
			t.Errorf("from %q to %q: %q has changed, want %q", c.old, c.now, got, c.want)
		}
	}
}
