// SPDX-License-Identifier: Apache-2.0

// Package wire reads and writes DNS messages as bytes. It knows no sockets, no
// clock and no policy, and its callers are [sotto/forwarder] and the packages
// below that.
//
// A message is never unpacked into records and packed again: what a forwarder
// does not understand would not survive that. A small walker finds the
// question, the OPT record, every record's boundaries and every TTL, and checks
// them. What is written are copies with a few fields patched.
//
//   - [ParseQuery] takes a client's message apart and says how to answer one
//     that is wrong; [AppendError] writes that answer.
//   - [AppendQuery] makes of a client's query the one that goes upstream: EDNS
//     is hop by hop (RFC 6891 §6.2.6), so nothing of the client's OPT but DO
//     goes with it.
//   - [Keepalive] finds what a reply says of the connection that it came over.
//   - [ParseReply] walks what an upstream sent, which may be hostile, down to
//     the names inside RDATA; [AppendReply] makes it fit for one client.
//   - [AppendParsed] and [ParseType] read what people write, the reverse of
//     [AppendName] and [TypeName]; [EachRecord] lists the records of a message
//     that is passed on as it is.
//   - [AppendKey] gives the key under which a reply may be shared, and
//     [SameQuestion] tells whether a reply belongs to a query.
//
// What it promises: no input makes it panic, loop or read outside the message;
// a reply that it accepted stays well-formed, whatever [AppendReply] patches in
// it; the Append functions and [ParseQuery] allocate nothing when dst has room.
//
// Everything here is safe for concurrent use on distinct arguments; a [Reply]
// that nobody changes may be read by many at once.
package wire
