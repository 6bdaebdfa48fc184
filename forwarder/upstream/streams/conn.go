// SPDX-License-Identifier: Apache-2.0

package streams

import (
	"context"
	"errors"
	"net/netip"
	"time"
)

// Conn is one authenticated connection. Its methods are called concurrently.
type Conn interface {
	// RoundTrip sends a query, whose ID is 0, in a stream of its own and returns the
	// reply, with ID 0 and the question of the query. Canceling ctx cancels the stream.
	// [ErrRefused] means that the server did not process the query; a [QueryError], a
	// [PauseError], transport.ErrMalformed and transport.ErrMismatch concern this query
	// alone. Any other error means that the connection is lost.
	RoundTrip(ctx context.Context, query []byte) ([]byte, error)

	// Draining is closed when the connection accepts no further queries: it is lost, or
	// the server announced that it will close it.
	Draining() <-chan struct{}

	// Failure returns why the connection is lost; nil if it is open, or only about to close.
	Failure() error

	// Heard returns when the latest byte or packet arrived, in ticks.
	Heard() int64

	// Acknowledged reports whether the server has acknowledged what was sent until that time, in
	// ticks. Then the path works, and the server is slow, or hangs.
	Acknowledged(sent int64) bool

	// Addrs returns the addresses of both ends.
	Addrs() (local, remote netip.AddrPort)

	// Close closes the connection at once; calls of RoundTrip return an error. reason is
	// not sent to the server. It may be called more than once.
	Close(reason error)
}

// ErrRefused means that a server certainly did not process a query, or that it was not
// sent: it is sent again on another connection.
var ErrRefused = errors.New("the server accepts no more queries on this connection")

// QueryError is a failure of one query that says nothing about its connection.
type QueryError struct{ Err error }

func (e *QueryError) Error() string { return e.Err.Error() }

// Unwrap returns the cause.
func (e *QueryError) Unwrap() error { return e.Err }

// PauseError is a reply by which a server asks for no queries for a while.
type PauseError struct {
	For time.Duration
	Err error
}

func (e *PauseError) Error() string { return e.Err.Error() }

// Unwrap returns the cause.
func (e *PauseError) Unwrap() error { return e.Err }
