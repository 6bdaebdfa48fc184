// SPDX-License-Identifier: Apache-2.0

package config

import (
	"net/netip"
	"strings"
	"testing"

	"sotto/internal/outbound"
)

func TestNetworkSettings(t *testing.T) {
	_, p, err := planText(`
source-address = ["192.0.2.7", "2001:db8::7"]
dns64 = "auto"
[[group]]
name = "vpn"
upstream = ["192.0.2.1"]
device = "wg0"
mark = 0x64
dns64 = "2001:db8:64::/96"
rebinding = "refuse"
rebinding-allow = ["Work.example", "."]
`, Options{Read: files{}.read})
	if err != nil {
		t.Fatal(err)
	}
	def, vpn := p.Groups[DefaultGroup], p.Groups["vpn"]
	if def.Network.Outbound != (outbound.Options{Source4: netip.MustParseAddr("192.0.2.7"), Source6: netip.MustParseAddr("2001:db8::7")}) ||
		!def.Network.DNS64 || def.Network.Prefix.IsValid() || def.Network.Rebinding {
		t.Errorf("default: %+v", def.Network)
	}
	if vpn.Network.Outbound != (outbound.Options{Device: "wg0", Mark: 100}) || vpn.Network.Prefix.String() != "2001:db8:64::/96" ||
		!vpn.Network.Rebinding || len(vpn.Network.Allowed) != 2 || string(vpn.Network.Allowed[0]) != "\x04Work\x07example\x00" {
		t.Errorf("vpn: %+v", vpn.Network)
	}
	// Answers and connections are not shared between groups that differ in any of them.
	keys := map[string]string{}
	for _, text := range []string{"", `source-address = ["192.0.2.7"]`, `source-address = ["192.0.2.8"]`, `device = "wg0"`, "mark = 1", "mark = 2", `dns64 = "auto"`,
		`dns64 = "64:ff9b::/96"`, `rebinding = "refuse"`, "rebinding = \"refuse\"\nrebinding-allow = [\"a.example\"]"} {
		_, p, err := planText(text, Options{Read: files{}.read})
		if err != nil {
			t.Fatalf("%s: %v", text, err)
		}
		if other, ok := keys[p.Groups[DefaultGroup].Key]; ok {
			t.Errorf("%q and %q have the same key", text, other)
		}
		keys[p.Groups[DefaultGroup].Key] = text
	}
}

func TestNetworkSettingErrors(t *testing.T) {
	for text, want := range map[string]string{
		`source-address = ["eth0"]`:                            `sotto.toml:1:19: source-address: "eth0" is not an address of this machine: want one such as`,
		`source-address = ["fe80::1%eth0"]`:                    "is not an address of this machine",
		"source-address = [\"192.0.2.7\",\n \"192.0.2.8\"]":    "sotto.toml:2:2: source-address: 192.0.2.7 and 192.0.2.8 are of the same family: want at most one of each",
		`device = "abcdefghijklmnop"`:                          "sotto.toml:1:10: device: \"abcdefghijklmnop\" is longer than the 15 bytes",
		"mark = 4294967296":                                    "sotto.toml:1:8: mark: it is 4294967296: want 0 (none) to 4294967295",
		"mark = -1":                                            "want 0 (none) to",
		`mark = "0x64"`:                                        "wrong type of value: write it as mark = 1",
		`dns64 = "64:ff9b::"`:                                  `sotto.toml:1:9: dns64: read the prefix "64:ff9b::": want an IPv6 prefix such as`,
		`rebinding = "drop"`:                                   `sotto.toml:1:13: rebinding: "drop": want "allow" or "refuse"`,
		`rebinding-allow = ["a.example"]`:                      `it has no effect: add rebinding = "refuse", or remove it`,
		"rebinding = \"refuse\"\nrebinding-allow = [\"a..b\"]": `sotto.toml:2:20: rebinding-allow: "a..b" is not a name`,
	} {
		if _, _, err := planText(text, Options{Read: files{}.read}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v\nwant %q", text, err, want)
		}
	}
}
