// SPDX-License-Identifier: Apache-2.0

package config

import "testing"

// TestListDir: without list-dir, lists are where the service may write.
func TestListDir(t *testing.T) {
	for _, tc := range []struct{ text, state, want string }{
		{"", "", "/var/lib/sotto/lists"},
		{"", "/var/lib/sotto-serve", "/var/lib/sotto-serve/lists"},
		{`list-dir = "/srv/lists"`, "/var/lib/sotto-serve", "/srv/lists"},
	} {
		_, p, err := planText(tc.text, Options{Read: files{}.read, StateDir: tc.state})
		if err != nil || p.ListDir != tc.want || p.Rules.sources.store.Dir != tc.want {
			t.Errorf("%q, %q: %q, %q, %v: want %q", tc.text, tc.state, p.ListDir, p.Rules.sources.store.Dir, err, tc.want)
		}
	}
}
