// SPDX-License-Identifier: Apache-2.0

package upstream

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"syscall"
	"time"
	"unicode"
	"unicode/utf8"

	"sotto/forwarder/wire"
)

// maxText bounds the words of an EDE. They travel in replies of 512 bytes.
const maxText = 200

// Error is why there is no reply. Its causes are found with [errors.Is] and
// [errors.As].
type Error struct {
	// Server is the one that failed, as [Server.String] has it; "" when it was
	// several, or none was asked.
	Server string
	// Code is the Extended DNS Error (RFC 8914 §4): 22 where servers were
	// silent, 23 where one could not be reached or not be trusted, 0 where the
	// reason is on this side.
	Code uint16
	// Reason says in words what is wrong.
	Reason string

	causes []error
}

func (e *Error) Error() string { return "ask upstream: " + e.text() }

// Unwrap returns the causes.
func (e *Error) Unwrap() []error { return e.causes }

// EDE is the error as a client is told it: one line of at most 200 bytes.
func (e *Error) EDE() wire.EDE { return wire.EDE{Code: e.Code, Text: oneLine(e.text(), maxText)} }

func (e *Error) text() string {
	if e.Server == "" {
		return e.Reason
	}
	return e.Server + ": " + e.Reason
}

// join makes one error of those of several servers, told in the order in which
// they were asked.
func join(errs []*Error) *Error {
	if len(errs) == 1 {
		return errs[0]
	}
	out := &Error{Code: errs[0].Code}
	var texts []string
	for _, e := range errs {
		if e.Code == wire.EDENetworkError {
			out.Code = e.Code // it says most
		}
		out.causes = append(out.causes, e)
		texts = append(texts, e.text())
	}
	out.Reason = strings.Join(texts, "; ")
	if len(out.Reason) > maxText {
		// The first is the one that is wanted most: it is told whole.
		more := fmt.Sprintf("; and %d more failed", len(errs)-1)
		out.Reason = oneLine(texts[0], maxText-len(more)) + more
	}
	return out
}

// oneLine is s without control characters, cut to n bytes between two runes.
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
	const dots = "…"
	cut := n - len(dots)
	for cut > 0 && !utf8.RuneStart(s[cut]) {
		cut--
	}
	return s[:cut] + dots
}

// Causes that are the package's own.
var (
	// ErrClosed: the [Group] was closed.
	ErrClosed = errors.New("the upstreams are closed: the program is ending")

	// ErrSilent: a server took queries and sent nothing back.
	ErrSilent = errors.New("the server takes queries and answers none")

	errTimeout  = errors.New("no answer in time")
	errStrays   = errors.New("the server's replies do not match the questions")
	errFull     = errors.New("too many queries in flight")
	errGone     = errors.New("the connection is gone")
	errNetwork  = errors.New("the network changed")
	errIdle     = errors.New("the connection was idle")
	errRetired  = errors.New("the connection was replaced, or not wanted any longer by its server")
	errOutrun   = errors.New("another address was faster")
	errBadQuery = errors.New("the query is no DNS message")
)

// lostError is the end of a connection with queries in flight.
type lostError struct{ cause error }

func (e *lostError) Error() string { return "lost the connection: " + e.cause.Error() }
func (e *lostError) Unwrap() error { return e.cause }

func isLost(err error) bool {
	var lost *lostError
	return errors.As(err, &lost)
}

// newError puts a failure of a server into words.
func newError(s Server, waited time.Duration, err error) *Error {
	out := &Error{Server: s.String(), Code: wire.EDENetworkError, causes: []error{err}}
	switch {
	case errors.Is(err, ErrClosed), errors.Is(err, errFull), errors.Is(err, context.Canceled):
		out.Code = wire.EDEOther
	case errors.Is(err, ErrSilent), isTimeout(err):
		out.Code = wire.EDENoReachableAuthority
	}
	out.Reason = reason(s, waited, err)
	return out
}

func isTimeout(err error) bool {
	return errors.Is(err, errTimeout) || errors.Is(err, context.DeadlineExceeded) ||
		errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, syscall.ETIMEDOUT)
}

// reason says what to make of err, a failure to ask s.
func reason(s Server, waited time.Duration, err error) string {
	var at *addrError
	if errors.As(err, &at) {
		return reason(Server{Addr: at.addr, Name: s.Name}, waited, at.err) + " (" + at.addr.Addr().String() + ")"
	}
	var untrusted *trustError
	if errors.As(err, &untrusted) {
		return untrusted.reason
	}
	switch {
	case errors.Is(err, ErrSilent), errors.Is(err, ErrClosed), errors.Is(err, errFull),
		errors.Is(err, errStrays), errors.Is(err, errNoFrame), errors.Is(err, errNetwork):
		return strings.TrimPrefix(err.Error(), "lost the connection: ")
	case isTimeout(err):
		return fmt.Sprintf("no answer within %s", waited.Round(10*time.Millisecond))
	case errors.Is(err, context.Canceled):
		return "the query was given up"
	case errors.Is(err, syscall.ECONNREFUSED):
		return fmt.Sprintf("connection refused: nothing listens on TCP port %d there", s.Addr.Port())
	case errors.Is(err, syscall.ENETUNREACH), errors.Is(err, syscall.EHOSTUNREACH):
		return "no route to it from this machine"
	case errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
		return "the server reset the connection" + during(isLost(err))
	case errors.Is(err, io.ErrUnexpectedEOF):
		return "the server closed the connection in the middle of a message"
	case errors.Is(err, io.EOF):
		return "the server closed the connection" + during(isLost(err))
	}
	return handshakeReason(s, err)
}

func during(lost bool) string {
	if lost {
		return " before it answered"
	}
	return " during the TLS handshake"
}

// handshakeReason is for what crypto/tls and the kernel say.
func handshakeReason(s Server, err error) string {
	var header tls.RecordHeaderError
	var op *net.OpError
	switch {
	case errors.As(err, &header):
		return fmt.Sprintf("what listens on port %d does not speak TLS", s.Addr.Port())
	case errors.As(err, &op) && op.Op == "remote error": // an alert, says crypto/tls
		return "the server refused the TLS handshake: " + op.Err.Error()
	case errors.As(err, &op):
		return op.Op + ": " + op.Err.Error()
	}
	return err.Error()
}
