// SPDX-License-Identifier: Apache-2.0

package transport

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"syscall"
	"time"
	"unicode"
	"unicode/utf8"

	"sotto/forwarder/upstream/proxy"
	"sotto/forwarder/wire"
)

// MaxText limits the text of an EDE in bytes. It has to fit in replies of 512 bytes.
const MaxText = 200

// Error describes why a query got no reply. Its causes are found with [errors.Is] and
// [errors.As].
type Error struct {
	// Server is the one that failed, as [Server.String] returns it; "" if several failed,
	// or none was asked.
	Server string
	// Code is the Extended DNS Error code (RFC 8914 §4): 22 if servers were silent, 23 if
	// one could not be reached or not be trusted, 0 if the cause is local.
	Code uint16
	// Reason describes the failure.
	Reason string

	causes []error
}

// NewError describes a failure of a server that was waited for that long.
func NewError(s Server, waited time.Duration, err error) *Error {
	out := &Error{Server: s.String(), Code: wire.EDENetworkError, Reason: Reason(s, waited, err), causes: []error{err}}
	switch {
	case errors.Is(err, ErrClosed), errors.Is(err, ErrOverloaded), errors.Is(err, context.Canceled):
		out.Code = wire.EDEOther
	case errors.Is(err, ErrSilent), IsTimeout(err):
		out.Code = wire.EDENoReachableAuthority
	}
	return out
}

// NewLocalError describes a failure for which no server was asked.
func NewLocalError(err error) *Error {
	return &Error{Code: wire.EDEOther, Reason: err.Error(), causes: []error{err}}
}

func (e *Error) Error() string { return "ask upstream: " + e.text() }

// Unwrap returns the causes.
func (e *Error) Unwrap() []error { return e.causes }

// EDE returns the error as clients receive it: one line of at most [MaxText] bytes.
func (e *Error) EDE() wire.EDE { return wire.EDE{Code: e.Code, Text: oneLine(e.text(), MaxText)} }

// Unreached reports whether no server received the query.
func (e *Error) Unreached() bool { return Unreached(e) }

func (e *Error) text() string {
	if e.Server == "" {
		return e.Reason
	}
	return e.Server + ": " + e.Reason
}

// Join combines the errors of several servers, in the order in which they were asked.
// There has to be at least one.
func Join(errs []*Error) *Error {
	if len(errs) == 1 {
		return errs[0]
	}
	out := &Error{Code: errs[0].Code}
	var texts []string
	for _, e := range errs {
		if e.Code == wire.EDENetworkError {
			out.Code = e.Code // the most specific one
		}
		out.causes = append(out.causes, e)
		texts = append(texts, e.text())
	}
	out.Reason = strings.Join(texts, "; ")
	if len(out.Reason) > MaxText {
		// The first server is the preferred one: keep its text rather than the others'.
		more := fmt.Sprintf("; and %d more failed", len(errs)-1)
		out.Reason = oneLine(texts[0], MaxText-len(more)) + more
	}
	return out
}

// oneLine returns s without control characters, cut to n bytes between two runes.
func oneLine(s string, n int) string {
	s = strings.Map(func(r rune) rune {
		if unicode.IsControl(r) || r == utf8.RuneError {
			return ' '
		}
		return r
	}, s)
	if len(s) <= n {
		return s
	}
	const ellipsis = "…"
	cut := n - len(ellipsis)
	for cut > 0 && !utf8.RuneStart(s[cut]) {
		cut--
	}
	return s[:cut] + ellipsis
}

// Reason describes err, a failure of s after it was waited for that long.
func Reason(s Server, waited time.Duration, err error) string {
	var at *AddrError
	if errors.As(err, &at) {
		return Reason(Server{Protocol: s.Protocol, Addr: at.Addr, Name: s.Name}, waited, at.Err) + " (" + at.Addr.Addr().String() + ")"
	}
	var lookup *LookupError
	if errors.As(err, &lookup) {
		return lookup.Error()
	}
	var untrusted *TrustError
	if errors.As(err, &untrusted) {
		return untrusted.Reason
	}
	var unwelcome *ClientCertError
	if errors.As(err, &unwelcome) {
		return unwelcome.Error()
	}
	var behind *proxy.Error
	if errors.As(err, &behind) {
		return behind.Error()
	}
	switch {
	case errors.Is(err, ErrSilent), errors.Is(err, ErrClosed), errors.Is(err, ErrOverloaded),
		errors.Is(err, ErrMismatch), errors.Is(err, ErrMalformed), errors.Is(err, ErrNetworkChanged),
		errors.Is(err, ErrUnusable), errors.Is(err, ErrNameCloses):
		var lost *LostError
		if errors.As(err, &lost) {
			err = lost.Err
		}
		return err.Error()
	case IsTimeout(err):
		return fmt.Sprintf("no answer within %s", waited.Round(10*time.Millisecond))
	case errors.Is(err, context.Canceled):
		return "the query was canceled"
	case errors.Is(err, syscall.ECONNREFUSED) && s.Protocol.Network() == "UDP":
		return fmt.Sprintf("connection refused: nothing listens on UDP port %d there", s.Addr.Port())
	case errors.Is(err, syscall.ECONNREFUSED):
		return fmt.Sprintf("connection refused: nothing listens on TCP port %d there", s.Addr.Port())
	case errors.Is(err, syscall.ENETUNREACH), errors.Is(err, syscall.EHOSTUNREACH):
		return "no route to it from this machine"
	case errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
		return "the server reset the connection" + phase(IsLost(err))
	case errors.Is(err, syscall.ECONNABORTED):
		return "a program on this machine closed the connection"
	case errors.Is(err, io.ErrUnexpectedEOF):
		return "the server closed the connection in the middle of a message"
	case errors.Is(err, io.EOF):
		return "the server closed the connection" + phase(IsLost(err))
	}
	return handshakeReason(s, err)
}

// phase names the phase in which a connection closed.
func phase(lost bool) string {
	if lost {
		return " before it answered"
	}
	return " during the TLS handshake"
}

// handshakeReason describes the errors of crypto/tls and of the kernel.
func handshakeReason(s Server, err error) string {
	var header tls.RecordHeaderError
	var op *net.OpError
	switch {
	case errors.As(err, &header):
		return fmt.Sprintf("the service on port %d does not speak TLS", s.Addr.Port())
	case errors.As(err, &op) && op.Op == "remote error": // crypto/tls received an alert
		return "the server refused the TLS handshake: " + op.Err.Error()
	case errors.As(err, &op):
		return op.Op + ": " + op.Err.Error()
	}
	return err.Error()
}
