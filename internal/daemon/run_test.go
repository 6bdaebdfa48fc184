// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"fmt"
	"os"
	"testing"

	"sotto/intercept"
	"sotto/internal/config"
)

// TestGuardedHost: the host is guarded only if the root cgroup is sealed.
func TestGuardedHost(t *testing.T) {
	root, err := intercept.CgroupRoot()
	if err != nil {
		t.Skipf("skipped: %v", err)
	}
	texts := map[string]bool{"": true, `cgroups = ["/"]`: true, fmt.Sprintf("cgroups = [%q]", root): true}
	if own, err := intercept.OwnCgroup(); err == nil && own != root {
		texts[fmt.Sprintf("cgroups = [%q]", own)] = false
	}
	for text, want := range texts {
		s, err := config.Parse("sotto.toml", []byte(text))
		if err != nil {
			t.Fatal(err)
		}
		p, err := s.Plan(config.Options{Read: os.ReadFile})
		if err != nil {
			t.Fatal(err)
		}
		if cfg, err := InstanceConfig(s, p); err != nil || cfg.GuardHost != want {
			t.Errorf("%q: the host is guarded: %v, want %v; %v", text, cfg.GuardHost, want, err)
		}
	}
}
