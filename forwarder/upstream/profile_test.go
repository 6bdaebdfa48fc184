// SPDX-License-Identifier: Apache-2.0

package upstream

import (
	"strings"
	"testing"
)

func TestParseProfile(t *testing.T) {
	for in, want := range map[string]Profile{"": Strict, "strict": Strict, "opportunistic": Opportunistic} {
		if p, err := ParseProfile(in); err != nil || p != want {
			t.Errorf("%q: %v, %v", in, p, err)
		}
	}
	for _, p := range []Profile{Strict, Opportunistic} {
		if again, err := ParseProfile(p.String()); err != nil || again != p {
			t.Errorf("%v is not parsed again: %v", p, err)
		}
	}
	for _, in := range []string{"Strict", "off", "plain", " strict"} {
		if _, err := ParseProfile(in); err == nil || !strings.Contains(err.Error(), "want strict or opportunistic") {
			t.Errorf("%q: %v", in, err)
		}
	}
	if s := Profile(7).String(); s != "Profile(7)" {
		t.Errorf("%q", s)
	}
}
