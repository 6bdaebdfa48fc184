// SPDX-License-Identifier: Apache-2.0

// Package address parses the texts by which users name upstream servers: addresses, URLs,
// DNS stamps and presets ([Parse]), and pins ([ParsePin]). It is pure: it resolves nothing.
//
// # Forms
//
//	PRESET                                       DNS over TLS to a public service (presets.go)
//	SCHEME://PRESET                              the same over another protocol, if the service documents it
//	ADDR[:PORT][,ADDR[:PORT]...][#NAME]          DNS over TLS
//	SCHEME://ADDR[:PORT][,...][/PATH][#NAME]     by address
//	SCHEME://NAME[:PORT][/PATH][#ADDR[,ADDR...]] by name
//	sdns://STAMP                                 a DNS stamp (stamp.go)
//
// SCHEME is tls (DNS over TLS, port 853), https (DNS over HTTPS, port 443), h3 (the same over
// HTTP/3), quic (DNS over QUIC, port 853) or auto, which stands for all four and takes no port.
//
// In a URL with a name the fragment lists the server's addresses, and in a URL with an
// address it is the name in its certificate: the part after # is always the other half of
// what the URL begins with. A URL's fragment is never sent to a server (RFC 3986 §3.5). A
// server without an address is resolved by sotto/forwarder/upstream.
//
// PATH is that of DNS over HTTPS (RFC 8484), by default /dns-query. If it ends with {?dns},
// as in the URI templates of the RFC, queries are sent with GET, otherwise with POST.
package address
