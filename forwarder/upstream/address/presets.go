// SPDX-License-Identifier: Apache-2.0

package address

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"sotto/forwarder/upstream/transport"
)

// preset is a public service.
type preset struct {
	// addrs are the addresses of each of its servers, separated by commas.
	addrs []string
	// tls, https, h3 and quic are what a URL of that scheme has after "://"; "" if the service
	// does not document the protocol.
	tls, https, h3, quic string
}

// endpoint returns the endpoint of a protocol, or "".
func (p *preset) endpoint(protocol transport.Protocol) string {
	switch protocol {
	case transport.DoT:
		return p.tls
	case transport.DoH:
		return p.https
	case transport.DoH3:
		return p.h3
	case transport.DoQ:
		return p.quic
	}
	return ""
}

// servers returns the service's servers for a protocol that it documents.
func (p *preset) servers(protocol transport.Protocol) []transport.Server {
	var servers []transport.Server
	for _, addrs := range p.addrs {
		srv, err := parseURL(protocol, p.endpoint(protocol)+"#"+addrs)
		if err != nil {
			panic(err) // a test parses all of them
		}
		servers = append(servers, srv)
	}
	return servers
}

// over is servers, with an error if the service, which is called name, does not document the
// protocol.
func (p *preset) over(protocol transport.Protocol, name string) ([]transport.Server, error) {
	if protocol == transport.Auto {
		return nil, errors.New("auto:// needs the name of a server, because a service may have a different name for each protocol: write auto://" + p.tls + "#" + p.addrs[0])
	}
	if p.endpoint(protocol) != "" {
		return p.servers(protocol), nil
	}
	var offered []string
	for _, other := range []transport.Protocol{transport.DoT, transport.DoH, transport.DoH3, transport.DoQ} {
		if p.endpoint(other) != "" {
			offered = append(offered, other.Scheme()+"://"+name)
		}
	}
	return nil, fmt.Errorf("%s documents no %s: write %s", name, protocol, strings.Join(offered, " or "))
}

// presets are public services by name. A server is a pair of a service's addresses, one of
// each family, so that it works on either network; the order is that of failing over. A
// variant's name says what it filters; a name without that is the variant that the service
// itself calls its default or recommends.
//
// Each preset names the page that documents it. A service without such a page, or whose
// authentication name is a guess, is not added.
var presets = map[string]preset{
	// https://developers.cloudflare.com/1.1.1.1/ip-addresses/ and, for the names and
	// the paths,
	// https://developers.cloudflare.com/1.1.1.1/encryption/dns-over-tls/,
	// https://developers.cloudflare.com/1.1.1.1/encryption/dns-over-https/make-api-requests/ and
	// https://developers.cloudflare.com/1.1.1.1/infrastructure/network-operators/
	"cloudflare": { // filters nothing
		addrs: []string{"1.1.1.1,2606:4700:4700::1111", "1.0.0.1,2606:4700:4700::1001"},
		tls:   "one.one.one.one",
		https: "cloudflare-dns.com/dns-query",
	},
	"cloudflare-security": { // malware
		addrs: []string{"1.1.1.2,2606:4700:4700::1112", "1.0.0.2,2606:4700:4700::1002"},
		tls:   "security.cloudflare-dns.com",
		https: "security.cloudflare-dns.com/dns-query",
	},
	"cloudflare-family": { // malware and adult content
		addrs: []string{"1.1.1.3,2606:4700:4700::1113", "1.0.0.3,2606:4700:4700::1003"},
		tls:   "family.cloudflare-dns.com",
		https: "family.cloudflare-dns.com/dns-query",
	},

	// https://quad9.net/service/service-addresses-and-features/ and, for HTTP/3 and QUIC,
	// https://quad9.net/news/blog/quad9-enables-dns-over-http-3-and-dns-over-quic
	"quad9": { // the recommended service: malware blocking, DNSSEC, no client subnet
		addrs: []string{"9.9.9.9,2620:fe::fe", "149.112.112.112,2620:fe::9"},
		tls:   "dns.quad9.net",
		https: "dns.quad9.net/dns-query",
		h3:    "dns.quad9.net/dns-query",
		quic:  "dns.quad9.net",
	},
	"quad9-unsecured": { // no blocking, no DNSSEC validation
		addrs: []string{"9.9.9.10,2620:fe::10", "149.112.112.10,2620:fe::fe:10"},
		tls:   "dns10.quad9.net",
		https: "dns10.quad9.net/dns-query",
		h3:    "dns10.quad9.net/dns-query",
		quic:  "dns10.quad9.net",
	},

	// https://developers.google.com/speed/public-dns/docs/using for the
	// addresses, …/docs/secure-transports for the name and the path, and for HTTP/3
	// https://security.googleblog.com/2022/07/dns-over-http3-in-android.html
	"google": {
		addrs: []string{"8.8.8.8,2001:4860:4860::8888", "8.8.4.4,2001:4860:4860::8844"},
		tls:   "dns.google",
		https: "dns.google/dns-query",
		h3:    "dns.google/dns-query",
	},

	// https://adguard-dns.io/kb/general/dns-providers/
	"adguard": { // ads, trackers, phishing
		addrs: []string{"94.140.14.14,2a10:50c0::ad1:ff", "94.140.15.15,2a10:50c0::ad2:ff"},
		tls:   "dns.adguard-dns.com",
		https: "dns.adguard-dns.com/dns-query",
		quic:  "dns.adguard-dns.com",
	},
	"adguard-family": { // these and adult content
		addrs: []string{"94.140.14.15,2a10:50c0::bad1:ff", "94.140.15.16,2a10:50c0::bad2:ff"},
		tls:   "family.adguard-dns.com",
		https: "family.adguard-dns.com/dns-query",
		quic:  "family.adguard-dns.com",
	},
	"adguard-unfiltered": {
		addrs: []string{"94.140.14.140,2a10:50c0::1:ff", "94.140.14.141,2a10:50c0::2:ff"},
		tls:   "unfiltered.adguard-dns.com",
		https: "unfiltered.adguard-dns.com/dns-query",
		quic:  "unfiltered.adguard-dns.com",
	},

	// https://www.joindns4.eu/for-public
	"dns4eu": { // "Protective": malware and fraud
		addrs: []string{"86.54.11.1,2a13:1001::86:54:11:1", "86.54.11.201,2a13:1001::86:54:11:201"},
		tls:   "protective.joindns4.eu",
		https: "protective.joindns4.eu/dns-query",
	},
	"dns4eu-child": { // these and content unsuitable for children
		addrs: []string{"86.54.11.12,2a13:1001::86:54:11:12", "86.54.11.212,2a13:1001::86:54:11:212"},
		tls:   "child.joindns4.eu",
		https: "child.joindns4.eu/dns-query",
	},
	"dns4eu-noads": { // malware, fraud and ads
		addrs: []string{"86.54.11.13,2a13:1001::86:54:11:13", "86.54.11.213,2a13:1001::86:54:11:213"},
		tls:   "noads.joindns4.eu",
		https: "noads.joindns4.eu/dns-query",
	},
	"dns4eu-child-noads": { // all of these
		addrs: []string{"86.54.11.11,2a13:1001::86:54:11:11", "86.54.11.211,2a13:1001::86:54:11:211"},
		tls:   "child-noads.joindns4.eu",
		https: "child-noads.joindns4.eu/dns-query",
	},
	"dns4eu-unfiltered": {
		addrs: []string{"86.54.11.100,2a13:1001::86:54:11:100", "86.54.11.200,2a13:1001::86:54:11:200"},
		tls:   "unfiltered.joindns4.eu",
		https: "unfiltered.joindns4.eu/dns-query",
	},

	// https://www.cira.ca/en/canadian-shield/configure/ and, for the names too,
	// https://adguard-dns.io/kb/general/dns-providers/#cira-canadian-shield-dns
	"cira": { // "Private": filters nothing
		addrs: []string{"149.112.121.10,2620:10a:80bb::10", "149.112.122.10,2620:10a:80bc::10"},
		tls:   "private.canadianshield.cira.ca",
		https: "private.canadianshield.cira.ca/dns-query",
	},
	"cira-protected": { // malware and phishing
		addrs: []string{"149.112.121.20,2620:10a:80bb::20", "149.112.122.20,2620:10a:80bc::20"},
		tls:   "protected.canadianshield.cira.ca",
		https: "protected.canadianshield.cira.ca/dns-query",
	},
	"cira-family": { // these and adult content
		addrs: []string{"149.112.121.30,2620:10a:80bb::30", "149.112.122.30,2620:10a:80bc::30"},
		tls:   "family.canadianshield.cira.ca",
		https: "family.canadianshield.cira.ca/dns-query",
	},

	// https://dns.sb/dot/ and https://dns.sb/doh/
	"dnssb": { // filters nothing
		addrs: []string{"185.222.222.222,2a09::", "45.11.45.11,2a11::"},
		tls:   "dot.sb",
		https: "doh.dns.sb/dns-query",
	},

	// https://docs.controld.com/docs/control-d-ip-ranges for the addresses, which differ
	// from those of its plain DNS, https://controld.com/free-dns for the
	// names and the path.
	"controld": { // filters nothing
		addrs: []string{"76.76.2.11,2606:1a40::11", "76.76.10.11,2606:1a40:1::11"},
		tls:   "p0.freedns.controld.com",
		https: "freedns.controld.com/p0",
		h3:    "freedns.controld.com/p0",
		quic:  "p0.freedns.controld.com",
	},

	// https://digitalcourage.de/support/zensurfreier-dns-server
	"digitalcourage": { // filters nothing; one server
		addrs: []string{"5.9.164.112,2a01:4f8:251:554::2"},
		tls:   "dns3.digitalcourage.de",
	},

	// https://github.com/DigitaleGesellschaft/DNS-Resolver
	"digitale-gesellschaft": { // filters nothing
		addrs: []string{"185.95.218.42,2a05:fc84::42", "185.95.218.43,2a05:fc84::43"},
		tls:   "dns.digitale-gesellschaft.ch",
		https: "dns.digitale-gesellschaft.ch/dns-query",
	},
}

// discontinuedPresets are services that users may still specify, and the error they get.
var discontinuedPresets = map[string]string{
	// https://mullvad.net/en/blog/shutting-down-our-public-encrypted-dns-servers-and-sponsoring-quad9-instead
	"mullvad": "mullvad shut down its public DNS servers on 2 November 2026 and recommends quad9",
}

// Presets returns the names that [Parse] accepts.
func Presets() []string { return slices.Sorted(maps.Keys(presets)) }
