// SPDX-License-Identifier: Apache-2.0

package transport

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"syscall"
)

// Failure is a class of errors, for counters.
type Failure uint8

// Classes of errors.
const (
	FailureOther       Failure = iota
	FailureTimeout             // no reply, or no connection, in time
	FailureSilent              // a connection delivered nothing any more
	FailureRefused             // nothing listens there
	FailureUnreachable         // no route
	FailureClosed              // the server closed the connection
	FailureTLS                 // the handshake failed
	FailureUntrusted           // the server could not be authenticated
	FailureClientCert          // the server did not accept the client
	FailureMalformed           // what the server sent is not a reply to the query
	FailureOverloaded          // the limit of queries in flight was reached
	FailureLocal               // the network changed, or the group was closed

	// Failures is the number of classes.
	Failures
)

var failureNames = [Failures]string{"other", "timeout", "silent", "refused", "unreachable", "closed", "tls", "untrusted",
	"client_certificate", "malformed", "overloaded", "local"}

// String returns the name that metrics use.
func (f Failure) String() string { return failureNames[min(f, Failures-1)] }

// FailureOf returns the class of an error of an exchange, or of a dial.
func FailureOf(err error) Failure {
	var untrusted *TrustError
	var unwelcome *ClientCertError
	var protocol *ProtocolError
	var header tls.RecordHeaderError
	var op *net.OpError
	switch {
	case errors.As(err, &protocol):
		return FailureTLS
	case errors.As(err, &untrusted):
		return FailureUntrusted
	case errors.As(err, &unwelcome):
		return FailureClientCert
	case errors.Is(err, ErrSilent):
		return FailureSilent
	case errors.Is(err, ErrMismatch), errors.Is(err, ErrMalformed), errors.Is(err, ErrUnusable):
		return FailureMalformed
	case errors.Is(err, ErrOverloaded):
		return FailureOverloaded
	case errors.Is(err, ErrClosed), errors.Is(err, ErrNetworkChanged), errors.Is(err, context.Canceled), errors.Is(err, syscall.ECONNABORTED):
		return FailureLocal
	case IsTimeout(err):
		return FailureTimeout
	case errors.Is(err, syscall.ECONNREFUSED):
		return FailureRefused
	case errors.Is(err, syscall.ENETUNREACH), errors.Is(err, syscall.EHOSTUNREACH):
		return FailureUnreachable
	case errors.Is(err, ErrNameCloses), errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE), errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return FailureClosed
	case errors.As(err, &header), errors.As(err, &op) && (op.Op == "remote error" || op.Op == "local error"): // alerts of crypto/tls
		return FailureTLS
	}
	return FailureOther
}
