// SPDX-License-Identifier: Apache-2.0

// Package wire parses and writes DNS messages as bytes. It has no sockets, no clock and
// no policy. Its callers are [sotto/forwarder] and the packages below that.
//
// A message is usually not unpacked into records and packed again, which would lose what the
// forwarder does not understand. A small walker finds and checks the question, the OPT
// record, the boundaries of every record, and every TTL. Messages are written as copies
// with a few fields patched.
//
//   - [ParseQuery] parses a client's message. Its error determines the reply to a
//     malformed one, which [AppendError] writes.
//   - [AppendQuery] writes the upstream query for a client's query. EDNS is hop by hop
//     (RFC 6891 §6.2.6), so only DO is copied from the client's OPT.
//   - [Keepalive] returns the idle timeout that a reply announces for its connection, and
//     [RemoveKeepalive] removes the request for that from a query.
//   - [ParseReply] checks an upstream's reply, which may be hostile, including the names
//     inside RDATA; [AppendReply] writes it for one client. [Reply.Compressed] and
//     [Reply.WithoutSignatures] write a reply anew; the only functions that do.
//   - [AppendWithCookie] adds a cookie to the reply of another server that is passed on.
//   - [AppendParsed] and [ParseType] parse presentation form, the reverse of
//     [AppendName] and [TypeName]; [EachRecord] lists the records of a message that is
//     passed on unchanged.
//   - [AppendKey] writes the key under which a reply may be shared, and [SameQuestion]
//     reports whether a reply belongs to a query.
//   - [AppendFrame] writes a message with the length field of TCP and TLS.
//
// It promises: no input makes it panic, loop or read outside the message; an accepted
// reply stays well-formed whatever [AppendReply] patches; the Append functions and
// [ParseQuery] do not allocate if dst has room.
//
// All functions are safe for concurrent use on distinct arguments. A [Reply] that is not
// modified may be read concurrently.
package wire
