// SPDX-License-Identifier: Apache-2.0

package dnstest

import (
	"net/netip"
	"sync/atomic"
	"time"
)

// Transport is how a query came in.
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
	Query     []byte // the whole message; the handler must not keep it
	Transport Transport
	Remote    netip.AddrPort
	Local     netip.AddrPort
	Conn      uint64 // numbers the connections of a server from 1; 0 over UDP
	N         int    // numbers the queries of a connection from 1
}

// End is what becomes of a connection after an [Answer]. UDP has none.
type End uint8

// The ends of an [Answer].
const (
	Keep  End = iota // the connection stays
	Close            // it is closed in order: close_notify, FIN
	Reset            // it is reset: RST, nothing after
)

// Answer is what a [Handler] makes of a query. The zero value is silence.
type Answer struct {
	// Msg is the reply; nil: none is sent.
	Msg []byte
	// Raw is sent as it is, without a length in front, after Msg.
	Raw []byte
	// Delay holds the answer back; later queries overtake it.
	Delay time.Duration
	// Wait, unless nil, holds the answer back until it is closed.
	Wait <-chan struct{}
	// Then is done after sending.
	Then End
}

// Handler answers queries. It is called concurrently, must not block, and gives
// up what it returns.
type Handler interface {
	Answer(r *Request) Answer
}

// HandlerFunc is a function as a [Handler].
type HandlerFunc func(r *Request) Answer

// Answer calls f.
func (f HandlerFunc) Answer(r *Request) Answer { return f(r) }

// Switch is a [Handler] that hands on to another, which can be changed while
// the server runs.
type Switch struct{ h atomic.Pointer[Handler] }

// NewSwitch returns a Switch set to h.
func NewSwitch(h Handler) *Switch {
	s := &Switch{}
	s.Set(h)
	return s
}

// Set makes h answer from here on.
func (s *Switch) Set(h Handler) { s.h.Store(&h) }

// Answer hands r on.
func (s *Switch) Answer(r *Request) Answer { return (*s.h.Load()).Answer(r) }

// Frame puts the length of RFC 1035 §4.2.2 in front of msg.
func Frame(msg []byte) []byte {
	return appendFrame(make([]byte, 0, 2+len(msg)), msg)
}

func appendFrame(dst, msg []byte) []byte {
	dst = append(dst, byte(len(msg)>>8), byte(len(msg)))
	return append(dst, msg...)
}
