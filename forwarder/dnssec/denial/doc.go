// SPDX-License-Identifier: Apache-2.0

// Package denial decides what NSEC (RFC 4034, 4035, 6840) and NSEC3 records (RFC 5155, 9276)
// prove: that a name does not exist, that it has no records of a type, or that no closer match
// than a wildcard exists.
//
// It is pure: its input are records whose signatures the caller has verified, all of one zone.
package denial
