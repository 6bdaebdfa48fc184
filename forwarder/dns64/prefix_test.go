// SPDX-License-Identifier: Apache-2.0

package dns64

import (
	"net/netip"
	"strings"
	"testing"
)

// TestEmbed: the examples of RFC 6052 §2.4.
func TestEmbed(t *testing.T) {
	v4 := netip.MustParseAddr("192.0.2.33")
	for prefix, want := range map[string]string{
		"2001:db8::/32":         "2001:db8:c000:221::",
		"2001:db8:100::/40":     "2001:db8:1c0:2:21::",
		"2001:db8:122::/48":     "2001:db8:122:c000:2:2100::",
		"2001:db8:122:300::/56": "2001:db8:122:3c0:0:221::",
		"2001:db8:122:344::/64": "2001:db8:122:344:c0:2:2100::",
		"2001:db8:122:344::/96": "2001:db8:122:344::192.0.2.33",
		"64:ff9b::/96":          "64:ff9b::192.0.2.33",
	} {
		p, err := ParsePrefix(prefix)
		if err != nil {
			t.Fatal(err)
		}
		got := Embed(p, v4)
		if got != netip.MustParseAddr(want) {
			t.Errorf("%s: %s, want %s", prefix, got, want)
		}
		if back, ok := Extract(p, got); !ok || back != v4 {
			t.Errorf("%s: %s, %t", prefix, back, ok)
		}
		found, ok := FindPrefix(Embed(p, wellKnownV4[1]))
		if !ok || found != p {
			t.Errorf("%s: found %s, %t", prefix, found, ok)
		}
	}
	for _, text := range []string{"2001:db8::1", "2001:db8:122:344:c0:2:2100::", "::ffff:192.0.0.170", "64:ff9b::192.0.0.172",
		"2001:db8:c000:aa:0:0:c000:aa" /* twice */} {
		if p, ok := FindPrefix(netip.MustParseAddr(text)); ok {
			t.Errorf("%s: found %s", text, p)
		}
	}
	if _, ok := Extract(netip.MustParsePrefix("2001:db8:122:344::/64"), netip.MustParseAddr("2001:db8:122:344:1c0:2:2100::")); ok {
		t.Error("bits 64 to 71 are ignored")
	}
}

func TestParsePrefix(t *testing.T) {
	for text, want := range map[string]string{
		"64:ff9b::":             "want an IPv6 prefix",
		"192.0.2.0/24":          "want an IPv6 prefix",
		"2001:db8::/33":         "want 32, 40, 48, 56, 64 or 96",
		"2001:db8::1/64":        "write 2001:db8::/64",
		"2001:db8:0:0:100::/96": "bits 64 to 71",
	} {
		if _, err := ParsePrefix(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", text, err, want)
		}
	}
}
