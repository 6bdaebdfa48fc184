// SPDX-License-Identifier: Apache-2.0

package transport

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"log/slog"
	"net/netip"
	"sync/atomic"
	"syscall"
	"time"

	"sotto/forwarder/tap"
	"sotto/forwarder/upstream/proxy"
	"sotto/forwarder/wire"
	"sotto/internal/durations"
)

// Transport carries queries to one server and owns the connections to it. Its methods
// are safe for concurrent use.
type Transport interface {
	// Exchange sends a query and returns its reply, which belongs to the caller and has
	// ID 0. It returns by the time until and does not refer to the query afterwards. It
	// blocks only in w, and returns the errors of w unchanged. [ErrSlowName] means that
	// only this query timed out, while others on the same connection were answered. A
	// [DialError] has been reported to the [Observer] already.
	Exchange(ctx context.Context, query []byte, until time.Time, w Waiter) ([]byte, error)

	// Maintain closes idle connections and, if queries are expected, opens a connection
	// unless there is one already. It does not block.
	Maintain(ctx context.Context, now time.Time, expected bool)

	// Reset closes all connections because the network changed. Queries in flight are
	// sent again on new connections.
	Reset()

	// Close closes all connections for good and waits until their goroutines have
	// exited. Queries in flight fail with [ErrClosed]. It may be called more than once.
	Close()

	// Stats returns the current statistics.
	Stats() Stats
}

// Waiter waits on behalf of one query. It is used by one goroutine at a time.
type Waiter interface {
	// Wait blocks until done delivers a value or is closed, and returns nil then. It
	// returns [ErrTimeout] at the time until, the error of ctx when that is canceled, and
	// any other error to abandon the query. lastRead is when a byte last arrived from
	// where the reply is expected, in ticks; nil if no connection is open yet.
	Wait(ctx context.Context, done <-chan struct{}, now, until time.Time, lastRead *atomic.Int64) error
}

// Observer receives what a transport finds out about its server. Its methods are called
// concurrently, must not block, and must not call the transport.
type Observer interface {
	// BytesRead reports that bytes arrived from the server. The time is in ticks.
	BytesRead(now int64)

	// Replied reports a reply to a query, even if no caller waits for it any more. Times
	// are in ticks.
	Replied(sent, received int64)

	// DialFailed reports that no connection could be opened, and when the attempt
	// started.
	DialFailed(started time.Time, err error)

	// MaintenanceDue requests a call of [Transport.Maintain] soon.
	MaintenanceDue()
}

// ProbeQuery asks for the name servers of the root, which every resolver knows. Any reply
// shows that the server works.
var ProbeQuery = func() []byte {
	root := []byte{0, 0, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0, 1}
	q, err := wire.ParseQuery(root)
	if err != nil {
		panic(err)
	}
	return wire.AppendQuery(nil, &q)
}()

// Config configures a transport. All fields but Lookup, RootCAs, ClientCert, Proxy, Control
// and Tap are required.
type Config struct {
	Server  Server
	Profile Profile

	// Lookup returns the addresses of a server that is known by its name alone. It waits for
	// them, at most until ctx is canceled. It is nil for other servers.
	Lookup func(ctx context.Context) ([]netip.Addr, error)

	// RootCAs returns the certificate authorities that are trusted; nil: the system's. It is called when the first certificate
	// is verified.
	RootCAs func() *x509.CertPool
	// ConfiguredCAs, if not nil, are those of them that the configuration adds to the system's. They are tried first.
	ConfiguredCAs *x509.CertPool

	// ClientCert is sent to a server that requests a certificate; nil: none is sent.
	ClientCert *tls.Certificate

	// Proxy, unless nil, carries the connections of protocols over TCP. It is ignored by
	// those over UDP, whose configuration with a proxy is refused.
	Proxy *proxy.Proxy

	// Control, unless nil, is called with every socket before it connects. Its error
	// fails the dial.
	Control func(network, address string, c syscall.RawConn) error

	// Tap, unless nil, receives the queries that are sent and their replies, also those that
	// come too late.
	Tap tap.Func

	// MaxConns limits the connections to the server, including those that are being
	// opened, but not those that only finish the queries they have.
	MaxConns    int
	MaxInflight int // queries in flight on one connection; at most 32,768

	DialTimeout time.Duration // for connecting and the handshake
	WarmTime    time.Duration // an unused connection is closed after this long
	MaxAge      time.Duration // a connection is replaced at this age, or up to a quarter earlier

	// SilentTimeout is how long replies may be pending on a connection that delivers nothing. Then
	// it is dead, or gets no more queries if those are acknowledged.
	SilentTimeout time.Duration

	Log      *slog.Logger
	Observer Observer
}

// Addrs returns the addresses of the server, at least one. It may have to wait for them.
func (cfg *Config) Addrs(ctx context.Context) ([]netip.AddrPort, error) {
	if cfg.Lookup == nil {
		return cfg.Server.Addrs(), nil
	}
	found, err := cfg.Lookup(ctx)
	if err != nil {
		return nil, err
	}
	addrs := make([]netip.AddrPort, len(found))
	for i, a := range found {
		addrs[i] = netip.AddrPortFrom(a, cfg.Server.Addr.Port())
	}
	return addrs, nil
}

// Stats are the statistics of a transport since it was made.
type Stats struct {
	Conns    int // connections open now
	InFlight int // queries in flight now

	Late   uint64 // replies to queries that had been abandoned
	Resent uint64 // queries sent again on another connection
	Lost   uint64 // queries in flight when a connection closed
	Strays uint64 // replies that matched no query
	Writes uint64 // system calls that sent queries

	Dials      uint64 // connection attempts
	DialErrors uint64 // of those, the failed ones
	Resumed    uint64 // of those, the ones that resumed a TLS session

	// Opened are the times that it took to open connections, handshakes included. It is nil if
	// the transport does not measure them.
	Opened *durations.Counts

	// Unauthenticated is the reason why the server of the latest connection could not be
	// authenticated although the profile [Opportunistic] accepted it; "" if it was
	// authenticated.
	Unauthenticated string

	// Protocol is the protocol of the latest connection, such as "TLS 1.3"; "" before the
	// first one.
	Protocol string
	// KeyExchange is the group of its key exchange, such as "X25519MLKEM768"; "" if that is
	// not known.
	KeyExchange string
	// Using is the protocol that a server of the protocol [Auto] is asked with now; "" if that
	// is not known yet, and for other servers.
	Using string

	// CertExpiry is when the certificate of that connection's server expires.
	CertExpiry time.Time
}
