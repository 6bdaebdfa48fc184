// SPDX-License-Identifier: Apache-2.0

package transport

import (
	"context"
	"errors"
	"net/netip"
	"os"
	"syscall"
)

// Failures of an exchange.
var (
	// ErrClosed means that the [Transport] or the group was closed.
	ErrClosed = errors.New("the upstream group is closed: Sotto is stopping")

	// ErrSilent means that a server accepted queries and sent nothing back.
	ErrSilent = errors.New("the server does not answer queries")

	// ErrTimeout means that the deadline of a query passed.
	ErrTimeout = errors.New("no answer in time")

	// ErrMismatch means that the server sent replies, but not to the queries.
	ErrMismatch = errors.New("the server's replies do not match the queries")

	// ErrMalformed means that the server does not speak DNS.
	ErrMalformed = errors.New("the server sent data that is not a DNS message")

	// ErrUnusable means that the server sent a message for this query that is no reply to it.
	// Other queries on the same connection are not affected.
	ErrUnusable = errors.New("the server's message is not a reply to the query")

	// ErrNameCloses means that the server closes every connection on which it is asked for
	// this name, and answers others.
	ErrNameCloses = errors.New("the server closes the connection when it is asked for this name")

	// ErrOverloaded means that the limit of queries in flight was reached. It is not the
	// server's fault.
	ErrOverloaded = errors.New("too many queries in flight")

	// ErrNetworkChanged closes connections on [Transport.Reset].
	ErrNetworkChanged = errors.New("the network changed")
)

// ErrSlowName is an [ErrTimeout] of a query whose connection delivered other replies
// meanwhile: the name is slow, not the server.
var ErrSlowName error = &slowNameError{}

type slowNameError struct{}

func (*slowNameError) Error() string        { return ErrTimeout.Error() }
func (*slowNameError) Is(target error) bool { return target == ErrTimeout }

// NameError is the failure of a query whose connection delivered other replies meanwhile: it
// is about the name, not the server.
type NameError struct{ Err error }

func (e *NameError) Error() string { return e.Err.Error() }

// Unwrap returns the cause.
func (e *NameError) Unwrap() error { return e.Err }

// DialError means that no connection could be opened. All queries that waited for it
// share it.
type DialError struct{ Err error }

func (e *DialError) Error() string { return e.Err.Error() }

// Unwrap returns the cause.
func (e *DialError) Unwrap() error { return e.Err }

// LostError means that a connection closed while the query was in flight.
type LostError struct{ Err error }

func (e *LostError) Error() string { return "lost the connection: " + e.Err.Error() }

// Unwrap returns the reason why the connection closed.
func (e *LostError) Unwrap() error { return e.Err }

// TrustError means that the server could not be authenticated.
type TrustError struct {
	Reason string
	Err    error // of package crypto/x509; nil if there is none
}

func (e *TrustError) Error() string { return e.Reason }

// Unwrap returns the cause.
func (e *TrustError) Unwrap() error { return e.Err }

// ClientCertError means that the server requested a certificate of the client and then
// refused the connection.
type ClientCertError struct {
	Sent bool // a certificate was sent
	Err  error
}

func (e *ClientCertError) Error() string {
	if e.Sent {
		return "the server refused the client certificate: " + e.Err.Error()
	}
	return "the server requires a client certificate: configure client-cert and client-key"
}

// Unwrap returns the cause.
func (e *ClientCertError) Unwrap() error { return e.Err }

// ProtocolError means that the server does not support the protocol that a transport
// requires.
type ProtocolError struct{ Want string } // its name for ALPN

func (e *ProtocolError) Error() string {
	names := map[string]string{"h2": "HTTP/2, which DNS over HTTPS requires", "h3": "HTTP/3", "doq": "DNS over QUIC", "dot": "DNS over TLS"}
	return "the server does not support " + names[e.Want]
}

// LookupError means that no address is known for the name of a server.
type LookupError struct {
	Name string
	Err  error
}

func (e *LookupError) Error() string {
	return "no address found for " + e.Name + ": " + e.Err.Error()
}

// Unwrap returns the cause.
func (e *LookupError) Unwrap() error { return e.Err }

// AddrError is the failure of one of a server's several addresses.
type AddrError struct {
	Addr netip.AddrPort
	Err  error
}

func (e *AddrError) Error() string { return e.Addr.String() + ": " + e.Err.Error() }

// Unwrap returns the cause.
func (e *AddrError) Unwrap() error { return e.Err }

// Unreached reports whether err means that no server received the query: no connection
// could be opened.
func Unreached(err error) bool {
	var several *Error
	if !errors.As(err, &several) {
		return IsDial(err)
	}
	for _, cause := range several.causes {
		if !Unreached(cause) {
			return false
		}
	}
	return len(several.causes) > 0
}

// IsDial reports whether err is a [DialError].
func IsDial(err error) bool {
	var dial *DialError
	return errors.As(err, &dial)
}

// IsLost reports whether err is a [LostError].
func IsLost(err error) bool {
	var lost *LostError
	return errors.As(err, &lost)
}

// IsTimeout reports whether err is a timeout, be it of the query, of the context, of a
// socket or of TCP.
func IsTimeout(err error) bool {
	return errors.Is(err, ErrTimeout) || errors.Is(err, context.DeadlineExceeded) ||
		errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, syscall.ETIMEDOUT)
}
