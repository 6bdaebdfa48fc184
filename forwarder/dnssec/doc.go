// SPDX-License-Identifier: Apache-2.0

// Package dnssec validates the answers of an upstream (RFC 4033 to 4035, 5155, 6840).
//
// A [Validator] wraps an upstream group. It sends every query with DO and CD set, so that the
// upstream returns the signatures and does not judge them, and builds the chain of trust by DS and
// DNSKEY queries to the same upstream. Verdicts:
//
//   - secure: every RRset of the answer is signed by a chain from a trust anchor, and what does not
//     exist is proven. The reply has AD set. Records that are not part of the answer and not signed
//     are removed.
//   - insecure: the zone of a part of the answer is not signed, as a signed proof says, or its
//     algorithms are not supported, or no trust anchor is above it, or a negative one is. All other
//     parts are secure. The reply is passed on, with AD clear, without records of the answer section
//     that the question does not lead to by its name or by aliases.
//   - bogus: anything else, in any part. The result is an [*Error], whose EDE gives the reason (RFC 8914).
//   - indeterminate: the upstream did not answer a query for the chain. The error is the
//     upstream's.
//
// A query of a client that set CD is not validated. Neither are replies with other codes than
// NOERROR and NXDOMAIN, other classes than IN, and the type RRSIG, which has no signatures itself.
//
// # Work
//
// Validation is on the path of a miss, never of a hit. Zones, unsigned delegations and verified
// signatures are kept in bounded maps, so that an answer from a known zone needs no further query,
// and records that many answers share are verified once. Concurrent queries for the same step of a
// chain share one. Denials are used again for other names (RFC 8198). Steps of a chain and denials
// are not used after the clock was set back behind the time when they were learned. What a hostile
// zone can cause is limited (CVE-2023-50387, CVE-2023-50868): see [maxVerifications] and
// [denial.DefaultLimits].
//
// # Packages
//
// [sotto/forwarder/dnssec/record] reads records, [sotto/forwarder/dnssec/signature] verifies
// signatures, [sotto/forwarder/dnssec/denial] decides what NSEC and NSEC3 records prove, and
// [sotto/forwarder/dnssec/anchor] holds the trust anchors. All of them work on bytes as
// [sotto/forwarder/wire] does. miekg/dns, which the tests use to sign, is not used: it has no
// Ed448, and converting a record to its presentation form and back costs more than the rest of a
// miss.
package dnssec
