// SPDX-License-Identifier: Apache-2.0

package plain

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"syscall"
	"time"
	"unicode"

	"sotto/forwarder/wire"
)

// Error is the reason why there is no reply. [errors.Is] and [errors.As] find its cause.
type Error struct {
	// Server is the nameserver that the query was for.
	Server netip.AddrPort
	// Code is the Extended DNS Error (RFC 8914 §4): 22 if the nameserver did not
	// answer, 23 if it could not be reached or sent something invalid, 0 for local
	// reasons.
	Code uint16
	// Reason describes the failure in words.
	Reason string

	cause error
}

func (e *Error) Error() string { return "ask in plain DNS: " + e.text() }

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.cause }

// EDE returns the error as clients get it, in one line.
func (e *Error) EDE() wire.EDE { return wire.EDE{Code: e.Code, Text: e.text()} }

func (e *Error) text() string { return e.Server.String() + ": " + e.Reason }

// The package's own causes.
var (
	errBadAddress  = errors.New("not the address of a nameserver")
	errNotQuery    = errors.New("the query is not a DNS message")
	errNotTransfer = errors.New("the query is not for a zone transfer")
	errStrays      = errors.New("replies do not match the query: they may be forged; retry over TCP")
	errNotDNS      = errors.New("the nameserver sent something that is not a DNS message")
	errNoSOA       = errors.New("the nameserver sent an invalid zone: it does not start with its SOA")
)

// markError means that a socket could not be marked as Sotto's own.
type markError struct{ cause error }

func (e *markError) Error() string { return "mark the socket as Sotto's own: " + e.cause.Error() }
func (e *markError) Unwrap() error { return e.cause }

// malformedError means that the records of a transfer's message cannot be parsed.
type malformedError struct{ cause error }

func (e *malformedError) Error() string {
	return "the nameserver sent a malformed message: " + e.cause.Error()
}
func (e *malformedError) Unwrap() error { return e.cause }

// failed returns the Error for err.
func (r *request) failed(err error) *Error {
	out := &Error{Server: r.to, Code: wire.EDENetworkError, cause: err}
	var mark *markError
	switch {
	case errors.As(err, &mark), errors.Is(err, context.Canceled), errors.Is(err, syscall.EMSGSIZE),
		isAny(err, errBadAddress, errNotQuery, errNotTransfer):
		out.Code = wire.EDEOther
	case isTimeout(err):
		out.Code = wire.EDENoReachableAuthority
	}
	out.Reason = oneLine(r.reason(err))
	return out
}

func isAny(err error, targets ...error) bool {
	for _, t := range targets {
		if errors.Is(err, t) {
			return true
		}
	}
	return false
}

func isTimeout(err error) bool {
	return isAny(err, os.ErrDeadlineExceeded, context.DeadlineExceeded, syscall.ETIMEDOUT)
}

// reason describes err in words.
func (r *request) reason(err error) string {
	var mark *markError
	var op *net.OpError
	switch {
	case errors.As(err, &mark):
		return mark.Error()
	case isTimeout(err):
		return fmt.Sprintf("no answer within %s", time.Since(r.start).Round(10*time.Millisecond))
	case errors.Is(err, context.Canceled):
		return "the query was cancelled"
	case errors.Is(err, syscall.ECONNREFUSED):
		return fmt.Sprintf("connection refused: nothing listens on port %d/%s there", r.to.Port(), r.network)
	case isAny(err, syscall.ENETUNREACH, syscall.EHOSTUNREACH):
		return "no route to it from this machine"
	case isAny(err, syscall.EPERM, syscall.EACCES):
		return fmt.Sprintf("a firewall on this machine blocks the query: allow Sotto's own packets to port %d", r.to.Port())
	case errors.Is(err, syscall.EMSGSIZE):
		return "the query is too long for a datagram: retry over TCP"
	case isAny(err, syscall.ECONNRESET, syscall.EPIPE):
		return "the nameserver reset the connection"
	case errors.Is(err, io.ErrUnexpectedEOF):
		return "the nameserver closed the connection in the middle of a message"
	case errors.Is(err, io.EOF):
		return "the nameserver closed the connection before the end of the answer"
	case errors.As(err, &op):
		return op.Op + ": " + op.Err.Error()
	}
	return err.Error()
}

// oneLine replaces control characters, since s goes to terminals and logs.
func oneLine(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return ' '
		}
		return r
	}, s)
}
