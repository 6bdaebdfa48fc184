// SPDX-License-Identifier: Apache-2.0

// Package record reads the DNS messages and records that DNSSEC validation needs: RRsets with
// their signatures in canonical form (RFC 4034 §6), and the contents of RRSIG, DNSKEY, DS, NSEC
// and NSEC3 records.
//
// It is pure. Its input comes from an upstream, which may be hostile: no input makes it panic,
// loop or read outside the message. Values that it returns may alias the message.
package record
