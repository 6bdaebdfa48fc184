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

// Error is why there is no reply. Its cause is found with [errors.Is] and
// [errors.As].
type Error struct {
	// Server is the nameserver that was meant.
	Server netip.AddrPort
	// Code is the Extended DNS Error (RFC 8914 §4): 22 where the nameserver was
	// silent, 23 where it could not be reached or sent what it should not, 0 where
	// the reason is on this side.
	Code uint16
	// Reason says in words what is wrong.
	Reason string

	cause error
}

func (e *Error) Error() string { return "ask in plain DNS: " + e.text() }

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.cause }

// EDE is the error as a client is told it, in one line.
func (e *Error) EDE() wire.EDE { return wire.EDE{Code: e.Code, Text: e.text()} }

func (e *Error) text() string { return e.Server.String() + ": " + e.Reason }

// Causes that are the package's own.
var (
	// ErrOverloaded: [Config].MaxInflight queries are under way.
	ErrOverloaded = errors.New("overloaded: too many queries wait for nameservers")
	errNowhere    = errors.New("it is no address of a nameserver")
	errNoQuery    = errors.New("the query is no DNS message")
	errNoTransfer = errors.New("the query is not for a zone transfer")
	errStrays     = errors.New("replies came that do not match the query: they may be forged; ask over TCP")
	errNoFrame    = errors.New("the nameserver sent something that is no DNS message")
	errNoSOA      = errors.New("what the nameserver sent is no zone: it does not start with its SOA")
)

// markError is a socket that could not be marked as Sotto's own.
type markError struct{ cause error }

func (e *markError) Error() string { return "mark the socket as Sotto's own: " + e.cause.Error() }
func (e *markError) Unwrap() error { return e.cause }

// malformedError is a message of a transfer whose records cannot be told apart.
type malformedError struct{ cause error }

func (e *malformedError) Error() string {
	return "the nameserver sent a malformed message: " + e.cause.Error()
}
func (e *malformedError) Unwrap() error { return e.cause }

// failed puts a failure into words.
func (a *asking) failed(err error) *Error {
	out := &Error{Server: a.to, Code: wire.EDENetworkError, cause: err}
	var mark *markError
	switch {
	case errors.As(err, &mark), errors.Is(err, context.Canceled), errors.Is(err, syscall.EMSGSIZE),
		isAny(err, ErrOverloaded, errNowhere, errNoQuery, errNoTransfer):
		out.Code = wire.EDEOther
	case isTimeout(err):
		out.Code = wire.EDENoReachableAuthority
	}
	out.Reason = oneLine(a.reason(err))
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

// reason says what to make of err.
func (a *asking) reason(err error) string {
	var mark *markError
	var op *net.OpError
	switch {
	case errors.As(err, &mark):
		return mark.Error()
	case isTimeout(err):
		return fmt.Sprintf("no answer within %s", time.Since(a.began).Round(10*time.Millisecond))
	case errors.Is(err, context.Canceled):
		return "the query was given up"
	case errors.Is(err, syscall.ECONNREFUSED):
		return fmt.Sprintf("connection refused: nothing listens on port %d/%s there", a.to.Port(), a.network)
	case isAny(err, syscall.ENETUNREACH, syscall.EHOSTUNREACH):
		return "no route to it from this machine"
	case isAny(err, syscall.EPERM, syscall.EACCES):
		return fmt.Sprintf("a firewall of this machine holds the query back: let Sotto's own packets to port %d pass", a.to.Port())
	case errors.Is(err, syscall.EMSGSIZE):
		return "the query is too long for a datagram: ask over TCP"
	case isAny(err, syscall.ECONNRESET, syscall.EPIPE):
		return "the nameserver reset the connection"
	case errors.Is(err, io.ErrUnexpectedEOF):
		return "the nameserver closed the connection in the middle of a message"
	case errors.Is(err, io.EOF):
		return "the nameserver closed the connection before the answer's end"
	case errors.As(err, &op):
		return op.Op + ": " + op.Err.Error()
	}
	return err.Error()
}

// oneLine is s without control characters: it goes to terminals and logs.
func oneLine(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return ' '
		}
		return r
	}, s)
}
