// SPDX-License-Identifier: Apache-2.0

// Package tap describes the DNS messages that the forwarder and its upstreams receive and
// send, for those who record them (dnstap). It imports nothing of Sotto.
package tap

import (
	"net/netip"
	"time"
)

// Kind is what a message is and which way it goes.
type Kind uint8

const (
	// ClientQuery is a query that a client sent.
	ClientQuery Kind = iota
	// ClientResponse is the reply that the client gets.
	ClientResponse
	// ForwarderQuery is a query that is sent to an upstream, or to the original destination.
	ForwarderQuery
	// ForwarderResponse is the reply to that.
	ForwarderResponse
)

// Proto is the protocol of a message.
type Proto uint8

const (
	UDP   Proto = iota // plain DNS over UDP
	TCP                // plain DNS over TCP
	TLS                // DNS over TLS (RFC 7858)
	HTTPS              // DNS over HTTPS (RFC 8484), HTTP/2 or HTTP/3
	QUIC               // DNS over QUIC (RFC 9250)
)

// Message is one DNS message.
type Message struct {
	Kind  Kind
	Proto Proto

	// Querier sent the query, and Responder the reply, or will do so. The querier of a query
	// to an original destination is not known and zero; so is a port of 0.
	Querier, Responder netip.AddrPort

	Workload string    // cgroup path of the client; "" where it is not known, and at upstreams
	Queried  time.Time // when the query was received or sent
	Replied  time.Time // the same of the reply; zero for a query
	Data     []byte    // the message; valid during the call
}

// Func receives messages. It is called concurrently, must not block and must not keep
// [Message.Data].
type Func func(Message)
