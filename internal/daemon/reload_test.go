// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"os"
	"testing"

	"sotto/internal/config"
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
