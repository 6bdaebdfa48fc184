// SPDX-License-Identifier: Apache-2.0

// Package dnstap records DNS messages in the format of dnstap (https://dnstap.info), in a file
// and through a Unix socket.
//
// [Tap.Message] encodes a message and adds it to a bounded buffer of each output. It never
// blocks: a message that finds a buffer full is lost there, and counted. [Tap.Run] writes the
// buffers. A receiver that is absent or does not read therefore delays nothing.
//
// The encoding of protocol buffers is that of google.golang.org/protobuf/encoding/protowire.
// Framing (Frame Streams, https://farsightsec.github.io/fstrm/) is done here: the library for
// it has not changed since 2020, and does not show where a frame ends after a failed write.
package dnstap
