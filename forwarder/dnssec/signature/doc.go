// SPDX-License-Identifier: Apache-2.0

// Package signature verifies DNSSEC signatures and digests.
//
// The algorithms are RSA with SHA-1 (5 and 7, if allowed), SHA-256 (8) and SHA-512 (10), ECDSA
// P-256 (13) and P-384 (14), Ed25519 (15) and Ed448 (16). Keys are checked once, by [NewKey].
// A [Cache] remembers the results of verifications, which cost up to a millisecond: a record that
// many answers contain, such as an NSEC record or what a wildcard expands, is verified once.
package signature
