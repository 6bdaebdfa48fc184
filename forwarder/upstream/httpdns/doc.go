// SPDX-License-Identifier: Apache-2.0

// Package httpdns is the part of DNS over HTTPS (RFC 8484) that does not depend on the
// version of HTTP: it makes requests of queries and reads replies from responses. It is
// used by the transports doh and doh3 and knows no connections.
//
// Requests contain nothing that identifies the client: no User-Agent, no Accept-Language, no
// cookies; the query has ID 0 and is padded by its sender. A response is checked (status,
// media type, length), and its Age and max-age limit the TTLs (RFC 8484 §5.1). Redirections
// within the origin are followed.
package httpdns
