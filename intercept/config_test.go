// SPDX-License-Identifier: Apache-2.0

package intercept

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"sotto/intercept/network"
	"sotto/intercept/registry"
)

func TestConfigDefaults(t *testing.T) {
	c := Config{Cgroups: []string{"/sys/fs/cgroup"}}
	if err := c.validate(); err != nil {
		t.Fatal(err)
	}
	if c.Name != "sotto" || c.Prefix4 != network.DefaultPrefix4 || c.Prefix6 != network.DefaultPrefix6 || len(c.Ports) != 1 || c.Ports[0] != 53 || c.Linger != time.Minute {
		t.Errorf("defaults: %+v", c)
	}
	if c.slotCount() != 65536 || c.quota() != 0 {
		t.Errorf("%d slots, quota %d", c.slotCount(), c.quota())
	}
	e := Config{Cgroups: []string{"/sys/fs/cgroup"}, Ephemeral: true}
	if err := e.validate(); err != nil {
		t.Fatal(err)
	}
	if e.Name != "" || e.Prefix4.IsValid() {
		t.Errorf("settings that are picked later are set: %+v", e)
	}
	e.Prefix4, e.Prefix6 = network.NthAssignment(3).Prefix4, network.NthAssignment(3).Prefix6
	if e.slotCount() != 1024 || e.quota() != 1024 {
		t.Errorf("%d slots, quota %d", e.slotCount(), e.quota())
	}
	e.Prefix6 = netip.MustParsePrefix("fd00::/120")
	if e.slotCount() != 256 {
		t.Errorf("%d slots", e.slotCount())
	}
}

func TestConfigRefuses(t *testing.T) {
	for want, change := range map[string]func(*Config){
		"none given":           func(c *Config) { c.Cgroups = nil },
		"with its full path":   func(c *Config) { c.Cgroups = []string{"work"} },
		"full path":            func(c *Config) { c.Exclude = []string{"work"} },
		`name "x"`:             func(c *Config) { c.Name = "x" },
		`name "sotto-a/b"`:     func(c *Config) { c.Name = "sotto-a/b" },
		`name "sotto-toolong1`: func(c *Config) { c.Name = "sotto-toolong123" },
		"0 is not a port":      func(c *Config) { c.Ports = []uint16{53, 0} },
		"16 is the most":       func(c *Config) { c.Ports = make([]uint16, 17) },
		"quota -1":             func(c *Config) { c.Quota = -1 },
		"linger":               func(c *Config) { c.Linger = -1 },
		"prefix4":              func(c *Config) { c.Prefix4 = netip.MustParsePrefix("198.18.0.0/30") },
		"prefix6":              func(c *Config) { c.Prefix6 = netip.MustParsePrefix("10.0.0.0/8") },
	} {
		c := Config{Cgroups: []string{"/sys/fs/cgroup"}}
		change(&c)
		if err := c.validate(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("want %q, got: %v", want, err)
		}
	}
}

// The names of interfaces identify their instance; other names identify none.
func TestNameOfLink(t *testing.T) {
	for link, want := range map[string]string{
		"sotto0": "sotto", "sotto1": "sotto", "sotto00": "sotto-0", "sotto631": "sotto-63",
		"sotto2": "", "sotto": "", "eth0": "",
	} {
		if got := nameOfLink(link); got != want {
			t.Errorf("%s belongs to %q, want %q", link, got, want)
		}
	}
	for n := range network.MaxAssignments {
		a := network.NthAssignment(n)
		if linkBase(a.Name) != a.Link {
			t.Errorf("the link base of %s is %s, want %s", a.Name, linkBase(a.Name), a.Link)
		}
		if got := nameOfLink(a.Link + "1"); got != a.Name || !isDefaultName(got) {
			t.Errorf("%s1 belongs to %q, want %q", a.Link, got, a.Name)
		}
	}
}

func TestRecordPrefixes(t *testing.T) {
	if got := recordedPrefixes(registry.Record{Name: "sotto"}); got[0] != network.DefaultPrefix4 || got[1] != network.DefaultPrefix6 {
		t.Errorf("record without prefixes of sotto: %v", got)
	}
	if got := recordedPrefixes(registry.Record{Name: "sotto-5"}); got[0] != network.NthAssignment(5).Prefix4 || got[1] != network.NthAssignment(5).Prefix6 {
		t.Errorf("record without prefixes of sotto-5: %v", got)
	}
	for _, name := range []string{"", "sotto-64", "sotto-x", "sottolab-1"} {
		if isDefaultName(name) {
			t.Errorf("%q is treated as a name that Sotto picks", name)
		}
	}
	if got := recordedPrefixes(registry.Record{Name: "sotto-x"}); got != nil {
		t.Errorf("record without prefixes of sotto-x: %v", got)
	}
}
