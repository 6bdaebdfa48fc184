// SPDX-License-Identifier: Apache-2.0

package config

import (
	"strings"
	"testing"

	"sotto/forwarder/dnssec/record"
)

const anchorFile = `; a comment
example.	3600	IN	DNSKEY	257 3 15 ( l02Woi0iS8Aa25FQkUd9RMzZHJpBoRQwAQEX1SxZJA4= ) ; ed25519
org. DS 3613 15 2 3AA5AB37EFCE57F737FC1627013FEE07BDF241BD10F3B1964AB55C78E79A304B
`

// TestDNSSEC: the settings for validation, of the default group and of others.
func TestDNSSEC(t *testing.T) {
	o := Options{Read: files{"/k": anchorFile, "/empty": "; none\n"}.read}
	_, p, err := planText(`dnssec = "validate"
negative-trust-anchors = ["lab.example"]
[[group]]
name = "work"
upstream = ["192.0.2.1"]
dnssec = "validate"
trust-anchor-file = "/k"
[[group]]
name = "off"
upstream = ["192.0.2.1"]
`, o)
	if err != nil {
		t.Fatal(err)
	}
	def, work := p.Groups[DefaultGroup].Validation, p.Groups["work"].Validation
	if p.Groups["off"].Validation != nil {
		t.Error("a group without the setting validates")
	}
	if def == nil || len(def.Anchors.Digests(record.Root)) != 2 {
		t.Fatalf("the default group: %+v: want the two keys of the root", def)
	}
	if work == nil || len(work.Anchors.Digests(record.Root)) != 0 || len(work.Anchors.Digests("\x07example\x00")) != 1 || len(work.Anchors.Digests("\x03org\x00")) != 1 {
		t.Fatalf("the group work: %+v: want the keys in the file alone", work)
	}
	if def.Key == work.Key || len(def.Key) != 8 {
		t.Errorf("keys %q and %q", def.Key, work.Key)
	}
	for name, want := range map[record.Name]bool{"\x03lab\x07example\x00": false, "\x01a\x03lab\x07example\x00": false, "\x03lab\x00": true} {
		if _, ok := def.Anchors.Closest(name); ok != want {
			t.Errorf("%s is validated: %v", name, ok)
		}
	}
	for text, want := range map[string]string{
		"dnssec = \"on\"": "want \"off\" or \"validate\"",
		"dnssec = \"validate\"\ntrust-anchor-file = \"/missing\"":      "remove the setting",
		"dnssec = \"validate\"\ntrust-anchor-file = \"/empty\"":        "no DS or DNSKEY record",
		"dnssec = \"validate\"\nnegative-trust-anchors = [\"a..b\"]\n": "is not a name",
	} {
		if _, _, err := planText(text, o); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v: want %q", text, err, want)
		}
	}
	_, p, err = planText("dnssec-sha1 = true", o)
	if err != nil || len(p.Groups[DefaultGroup].warnings) != 1 {
		t.Errorf("a setting without effect: %v, %v", p.Groups[DefaultGroup].warnings, err)
	}
}
