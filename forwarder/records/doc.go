// SPDX-License-Identifier: Apache-2.0

// Package records holds the records with which rules answer queries: addresses for every
// name, or those of hosts files. It has no sockets, no clock and no policy; it reads files
// only from an io.Reader.
//
//   - [Addresses] makes a [Set] with the same addresses for every name.
//   - [Hosts] reads hosts files and makes a Set with their names.
//   - [Set.Find] returns the records for a question, ready to be sent.
//
// It promises: Find does not allocate and takes no lock; an answer fits a message over TCP;
// errors of a file have its name, the line and the fix.
//
// A Set is immutable and safe for concurrent use. Its callers are [sotto/forwarder], and
// internal/config, which reads the files.
package records
