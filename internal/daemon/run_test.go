// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"sotto/intercept/cgroup"
	"sotto/internal/config"
)

// TestGuardedHost: the host is guarded only if the root cgroup is sealed.
func TestGuardedHost(t *testing.T) {
	root, err := cgroup.Root()
	if err != nil {
		t.Skipf("skipped: %v", err)
	}
	texts := map[string]bool{"": true, `cgroups = ["/"]`: true, fmt.Sprintf("cgroups = [%q]", root): true}
	if own, err := cgroup.Own(); err == nil && own != root {
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

// An excluded cgroup may not exist yet, because its service starts later. A sealed one must.
func TestInstanceConfigMissingCgroup(t *testing.T) {
	root, err := cgroup.Root()
	if err != nil {
		t.Skipf("skipped: %v", err)
	}
	for text, want := range map[string]string{
		`exclude = ["nowhere.slice/later.service"]`: "",
		`cgroups = ["nowhere.slice/later.service"]`: "sotto.toml:1:12: ",
	} {
		s, err := config.Parse("sotto.toml", []byte(text))
		if err != nil {
			t.Fatal(err)
		}
		p, err := s.Plan(config.Options{Read: os.ReadFile})
		if err != nil {
			t.Fatal(err)
		}
		cfg, err := InstanceConfig(s, p)
		if want == "" {
			if err != nil || !slices.Equal(cfg.Exclude, []string{filepath.Join(root, "nowhere.slice/later.service")}) {
				t.Errorf("%s: excluded %v; %v", text, cfg.Exclude, err)
			}
		} else if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", text, err, want)
		}
	}
}
