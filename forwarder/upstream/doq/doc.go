// SPDX-License-Identifier: Apache-2.0

// Package doq is the transport of DNS over QUIC (RFC 9250). It is used by
// sotto/forwarder/upstream. Connections are opened by sotto/forwarder/upstream/quicdial and
// pooled by sotto/forwarder/upstream/streams, which also sends queries again.
//
// Each query has a stream of its own, with ID 0, ended by FIN. Streams that the server's limit
// does not permit yet are waited for. What a server may do:
//
//	reset or end a stream, STOP_SENDING          its query is sent once more; others are not affected
//	close the connection, with any code          its queries are sent again on another one
//	DOQ_EXCESSIVE_LOAD                           the server gets no query for a second
//	a non-zero ID, edns-tcp-keepalive, a second  fatal (§4.3.3): the connection is closed with
//	message, an incomplete message               DOQ_PROTOCOL_ERROR, and its other queries are
//	                                             sent again on another one
//	a stateless reset, silence                   noticed by sotto/forwarder/upstream/quicdial and
//	                                             streams; the queries are sent again
//
// A reply is used when it is complete: FIN is waited for afterwards.
package doq
