// SPDX-License-Identifier: Apache-2.0

package intercept

import (
	"net/netip"
	"strings"
	"testing"
	"time"
)

func TestConfigDefaults(t *testing.T) {
	c := Config{Cgroups: []string{"/sys/fs/cgroup"}}
	if err := c.validate(); err != nil {
		t.Fatal(err)
	}
	if c.Name != "sotto" || c.Prefix4 != defaultPrefix4 || c.Prefix6 != defaultPrefix6 || len(c.Ports) != 1 || c.Ports[0] != 53 || c.Linger != time.Minute {
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
		t.Errorf("what is picked later is set: %+v", e)
	}
	e.Prefix4, e.Prefix6 = nthInstance(3).prefix4, nthInstance(3).prefix6
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
		"0 is no port":         func(c *Config) { c.Ports = []uint16{53, 0} },
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

// Links find back to their instance, and links of others to none.
func TestNameOfLink(t *testing.T) {
	for link, want := range map[string]string{
		"sotto0": "sotto", "sotto1": "sotto", "sotto00": "sotto-0", "sotto631": "sotto-63",
		"sotto2": "", "sotto": "", "eth0": "",
	} {
		if got := nameOfLink(link); got != want {
			t.Errorf("%s is of %q, want %q", link, got, want)
		}
	}
	for n := range maxInstances {
		in := nthInstance(n)
		if linkBase(in.name) != in.link {
			t.Errorf("%s has links %s, want %s", in.name, linkBase(in.name), in.link)
		}
		if got := nameOfLink(in.link + "1"); got != in.name || !picked(got) {
			t.Errorf("%s1 is of %q, want %q", in.link, got, in.name)
		}
	}
}

func TestRecordPrefixes(t *testing.T) {
	if got := (record{Name: "sotto"}).prefixes(); got[0] != defaultPrefix4 || got[1] != defaultPrefix6 {
		t.Errorf("lost record of sotto: %v", got)
	}
	if got := (record{Name: "sotto-5"}).prefixes(); got[0] != nthInstance(5).prefix4 || got[1] != nthInstance(5).prefix6 {
		t.Errorf("lost record of sotto-5: %v", got)
	}
	for _, name := range []string{"", "sotto-64", "sotto-x", "sottolab-1"} {
		if picked(name) {
			t.Errorf("%q passes for a name that Sotto picks", name)
		}
	}
	if got := (record{Name: "sotto-x"}).prefixes(); got != nil {
		t.Errorf("lost record of sotto-x: %v", got)
	}
}
