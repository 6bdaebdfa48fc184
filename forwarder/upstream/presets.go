// SPDX-License-Identifier: Apache-2.0

package upstream

import (
	"maps"
	"slices"
)

// presets are public services by name. A server is a pair of a service's addresses, one of
// each family, so that it works on either network; the order is that of failing over. A
// variant's name says what it filters; a name without that is the variant that the service
// itself calls its default or recommends.
//
// Each preset names the page that documents it. A service without such a page, or whose
// authentication name is a guess, is not added.
var presets = map[string][]string{
	// https://developers.cloudflare.com/1.1.1.1/ip-addresses/ and, for the names,
	// https://developers.cloudflare.com/1.1.1.1/encryption/dns-over-tls/ and
	// https://developers.cloudflare.com/1.1.1.1/infrastructure/network-operators/
	"cloudflare": { // filters nothing
		"1.1.1.1,2606:4700:4700::1111#one.one.one.one",
		"1.0.0.1,2606:4700:4700::1001#one.one.one.one",
	},
	"cloudflare-security": { // malware
		"1.1.1.2,2606:4700:4700::1112#security.cloudflare-dns.com",
		"1.0.0.2,2606:4700:4700::1002#security.cloudflare-dns.com",
	},
	"cloudflare-family": { // malware and adult content
		"1.1.1.3,2606:4700:4700::1113#family.cloudflare-dns.com",
		"1.0.0.3,2606:4700:4700::1003#family.cloudflare-dns.com",
	},

	// https://quad9.net/service/service-addresses-and-features/
	"quad9": { // the recommended service: malware blocking, DNSSEC, no client subnet
		"9.9.9.9,2620:fe::fe#dns.quad9.net",
		"149.112.112.112,2620:fe::9#dns.quad9.net",
	},
	"quad9-unsecured": { // no blocking, no DNSSEC validation
		"9.9.9.10,2620:fe::10#dns10.quad9.net",
		"149.112.112.10,2620:fe::fe:10#dns10.quad9.net",
	},

	// https://developers.google.com/speed/public-dns/docs/using for the
	// addresses, …/docs/dns-over-tls for the name.
	"google": {
		"8.8.8.8,2001:4860:4860::8888#dns.google",
		"8.8.4.4,2001:4860:4860::8844#dns.google",
	},

	// https://adguard-dns.io/kb/general/dns-providers/
	"adguard": { // ads, trackers, phishing
		"94.140.14.14,2a10:50c0::ad1:ff#dns.adguard-dns.com",
		"94.140.15.15,2a10:50c0::ad2:ff#dns.adguard-dns.com",
	},
	"adguard-family": { // these and adult content
		"94.140.14.15,2a10:50c0::bad1:ff#family.adguard-dns.com",
		"94.140.15.16,2a10:50c0::bad2:ff#family.adguard-dns.com",
	},
	"adguard-unfiltered": {
		"94.140.14.140,2a10:50c0::1:ff#unfiltered.adguard-dns.com",
		"94.140.14.141,2a10:50c0::2:ff#unfiltered.adguard-dns.com",
	},

	// https://www.joindns4.eu/for-public
	"dns4eu": { // "Protective": malware and fraud
		"86.54.11.1,2a13:1001::86:54:11:1#protective.joindns4.eu",
		"86.54.11.201,2a13:1001::86:54:11:201#protective.joindns4.eu",
	},
	"dns4eu-child": { // these and content unsuitable for children
		"86.54.11.12,2a13:1001::86:54:11:12#child.joindns4.eu",
		"86.54.11.212,2a13:1001::86:54:11:212#child.joindns4.eu",
	},
	"dns4eu-noads": { // malware, fraud and ads
		"86.54.11.13,2a13:1001::86:54:11:13#noads.joindns4.eu",
		"86.54.11.213,2a13:1001::86:54:11:213#noads.joindns4.eu",
	},
	"dns4eu-child-noads": { // all of these
		"86.54.11.11,2a13:1001::86:54:11:11#child-noads.joindns4.eu",
		"86.54.11.211,2a13:1001::86:54:11:211#child-noads.joindns4.eu",
	},
	"dns4eu-unfiltered": {
		"86.54.11.100,2a13:1001::86:54:11:100#unfiltered.joindns4.eu",
		"86.54.11.200,2a13:1001::86:54:11:200#unfiltered.joindns4.eu",
	},

	// https://www.cira.ca/en/canadian-shield/configure/ and, for the names too,
	// https://adguard-dns.io/kb/general/dns-providers/#cira-canadian-shield-dns
	"cira": { // "Private": filters nothing
		"149.112.121.10,2620:10a:80bb::10#private.canadianshield.cira.ca",
		"149.112.122.10,2620:10a:80bc::10#private.canadianshield.cira.ca",
	},
	"cira-protected": { // malware and phishing
		"149.112.121.20,2620:10a:80bb::20#protected.canadianshield.cira.ca",
		"149.112.122.20,2620:10a:80bc::20#protected.canadianshield.cira.ca",
	},
	"cira-family": { // these and adult content
		"149.112.121.30,2620:10a:80bb::30#family.canadianshield.cira.ca",
		"149.112.122.30,2620:10a:80bc::30#family.canadianshield.cira.ca",
	},

	// https://dns.sb/dot/
	"dnssb": { // filters nothing
		"185.222.222.222,2a09::#dot.sb",
		"45.11.45.11,2a11::#dot.sb",
	},

	// https://docs.controld.com/docs/control-d-ip-ranges for the addresses, which differ
	// from those of its plain DNS, https://controld.com/free-dns for the name.
	"controld": { // filters nothing
		"76.76.2.11,2606:1a40::11#p0.freedns.controld.com",
		"76.76.10.11,2606:1a40:1::11#p0.freedns.controld.com",
	},

	// https://digitalcourage.de/support/zensurfreier-dns-server
	"digitalcourage": { // filters nothing; one server
		"5.9.164.112,2a01:4f8:251:554::2#dns3.digitalcourage.de",
	},

	// https://github.com/DigitaleGesellschaft/DNS-Resolver
	"digitale-gesellschaft": { // filters nothing
		"185.95.218.42,2a05:fc84::42#dns.digitale-gesellschaft.ch",
		"185.95.218.43,2a05:fc84::43#dns.digitale-gesellschaft.ch",
	},
}

// discontinuedPresets are services that users may still specify, and the error they get.
var discontinuedPresets = map[string]string{
	// https://mullvad.net/en/blog/shutting-down-our-public-encrypted-dns-servers-and-sponsoring-quad9-instead
	"mullvad": "mullvad shut down its public DNS servers on 2 November 2026 and recommends quad9",
}

// Presets returns the names that [ParseServer] accepts.
func Presets() []string { return slices.Sorted(maps.Keys(presets)) }
