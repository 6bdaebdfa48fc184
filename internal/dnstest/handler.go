// SPDX-License-Identifier: Apache-2.0

package dnstest

import (
	"net/netip"
	"sync/atomic"
	"time"
)

// Transport is the transport protocol of a query.
type Transport uint8

// The transports of a [Server].
const (
	UDP Transport = iota
	TCP
	TLS
)

func (t Transport) String() string {
	return [...]string{"udp", "tcp", "tls"}[t]
}

// Request is one query.
type Request struct {
	Query     []byte // the complete message; the handler must not retain it
	Transport Transport
	Remote    netip.AddrPort
	Local     netip.AddrPort
	Conn      uint64 // number of the connection, starting at 1; 0 over UDP
	N         int    // number of the query on its connection, starting at 1
}

// End selects how a connection ends after an [Answer]. UDP ignores it.
type End uint8

// The values of End.
const (
	Keep  End = iota // the connection stays open
	Close            // it is closed gracefully: close_notify, FIN
	Reset            // it is reset: RST
)

// Answer is the result of a [Handler]. The zero value sends no reply.
type Answer struct {
	// Msg is the reply. Nil: no reply is sent.
	Msg []byte
	// Raw is sent after Msg, unmodified and without a length prefix.
	Raw []byte
	// Delay delays the answer. Later queries may be answered first.
	Delay time.Duration
	// Wait, unless nil, delays the answer until it is closed.
	Wait <-chan struct{}
	// Then is applied after the answer was sent.
	Then End
}

// Handler answers queries. It is called concurrently, must not block, and must not use
// an Answer after it has returned it.
type Handler interface {
	Answer(r *Request) Answer
}

// HandlerFunc adapts a function to a [Handler].
type HandlerFunc func(r *Request) Answer

// Answer calls f.
func (f HandlerFunc) Answer(r *Request) Answer { return f(r) }

// Switch is a [Handler] that delegates to another one, which can be replaced while the
// server runs.
type Switch struct{ h atomic.Pointer[Handler] }

// NewSwitch returns a Switch set to h.
func NewSwitch(h Handler) *Switch {
	s := &Switch{}
	s.Set(h)
	return s
}

// Set replaces the handler.
func (s *Switch) Set(h Handler) { s.h.Store(&h) }

// Answer delegates to the current handler.
func (s *Switch) Answer(r *Request) Answer { return (*s.h.Load()).Answer(r) }

// Frame returns msg with its length prefix (RFC 1035 §4.2.2). It does not use package wire,
// because tests compare that with it.
func Frame(msg []byte) []byte {
	return append([]byte{byte(len(msg) >> 8), byte(len(msg))}, msg...)
}
