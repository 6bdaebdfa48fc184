// SPDX-License-Identifier: Apache-2.0

package config

import (
	"strings"
	"testing"
)

// TestSharedCache: the settings of the shared cache, with the defaults of what its address leaves
// out. A name is valid where it can be resolved, and a server without TLS with a secret.
func TestSharedCache(t *testing.T) {
	f := files{"secret": strings.Repeat("s", 32) + "\n", "password": "pass word\n"}
	for _, tc := range []struct {
		text  string
		serve bool
		want  Shared
	}{
		{`shared-cache = "redis://127.0.0.1"`, false, Shared{Address: "127.0.0.1:6379"}},
		{`shared-cache = "redis://[::1]:1/0"`, false, Shared{Address: "[::1]:1"}},
		{`shared-cache = "rediss://sotto@valkey.dns.svc:6380/7"`, true, Shared{Address: "valkey.dns.svc:6380", Username: "sotto", Database: 7}},
		{"shared-cache = \"redis://valkey\"\nshared-cache-secret-file = \"secret\"\nshared-cache-password-file = \"password\"", true,
			Shared{Address: "valkey:6379", Password: "pass word", Secret: []byte(strings.Repeat("s", 32))}},
	} {
		_, p, err := planText(tc.text, Options{Serve: tc.serve, Read: f.read})
		if err != nil {
			t.Errorf("%s: %v", tc.text, err)
			continue
		}
		got := p.Shared
		if got.Address != tc.want.Address || got.Username != tc.want.Username || got.Password != tc.want.Password || got.Database != tc.want.Database ||
			string(got.Secret) != string(tc.want.Secret) || (got.TLS != nil) != strings.Contains(tc.text, "rediss://") || got.Prefix != "sotto:" {
			t.Errorf("%s: %+v", tc.text, got)
		}
		if got.TLS != nil && got.TLS.ServerName != "valkey.dns.svc" {
			t.Errorf("%s: the certificate has to be for %q", tc.text, got.TLS.ServerName)
		}
	}
	if _, p, err := planText("", Options{Read: f.read}); err != nil || p.Shared != nil {
		t.Errorf("without the setting: %+v, %v", p.Shared, err)
	}
}
