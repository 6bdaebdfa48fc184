// SPDX-License-Identifier: Apache-2.0

package original

import (
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"sotto/forwarder/upstream"
	"sotto/forwarder/upstream/transport"
)

const (
	// DefaultMax is more nameservers than the programs of a machine use.
	DefaultMax = 128

	// idleTime is how long a group without queries is kept open.
	idleTime = 10 * time.Minute

	// closeInterval is how often idle groups are looked for.
	closeInterval = time.Minute

	// plainPort is the port of nameservers that may offer an encrypted transport. A service on
	// another port of the same address is another one.
	plainPort = 53

	// maxScope is the limit of forwarder.Route.Scope.
	maxScope = 64
)

// Exchanger sends a query and returns the reply, as forwarder.Exchanger does.
type Exchanger interface {
	Exchange(ctx context.Context, query []byte, until time.Time) ([]byte, error)
}

// Discovery is which ways to find a server are used.
type Discovery uint8

// The values of Discovery. Each includes those before it.
const (
	OnlyKnown Discovery = iota // known public resolvers
	WithTLS                    // DNS over TLS at the address of the nameserver
	WithDDR                    // designated resolvers: one query in plain DNS to the nameserver
)

// Wrapped answers queries, with the functions that have to be called on some occasions.
type Wrapped struct {
	Exchanger
	Changed []func() // the network has changed
	Flushed []func() // the cache was flushed
}

func call(functions []func()) {
	for _, f := range functions {
		f()
	}
}

// Config configures an [Upstream]. Name and Group are required.
type Config struct {
	// Name is the name of the group, which is part of scopes; "" for the default group.
	Name string
	// Mark, of at most one byte, ends scopes that are too long for Name.
	Mark string
	// Identity is that of the group, see forwarder.Identified.
	Identity string

	// Group configures the group of each nameserver, except for its Servers.
	Group upstream.Config

	Discovery Discovery
	// Ask sends a query in plain DNS. Required for [WithDDR].
	Ask func(ctx context.Context, to netip.AddrPort, query []byte, until time.Time) ([]byte, error)

	// Fallback receives queries for nameservers without a server, and those that fail. Nil: such
	// queries fail.
	Fallback Exchanger

	// Wrap, unless nil, returns what answers the queries for one nameserver, around its servers and
	// the fallback.
	Wrap func(Exchanger) Wrapped

	// Max limits the nameservers that are remembered; 0: [DefaultMax].
	Max int

	// Tests set these.
	known    func(netip.Addr) (upstream.Server, bool) // upstream.Known
	port     uint16                                   // that of DNS over TLS
	loopback bool                                     // nameservers on loopback are tried
}

// Upstream is the nameservers that clients asked. Its methods are safe for concurrent use.
type Upstream struct {
	cfg Config
	ctx context.Context // of discoveries and groups

	// byAddr is replaced when a nameserver is added or removed: it is read for every query, also for
	// those that the cache answers.
	byAddr atomic.Pointer[map[netip.AddrPort]*Nameserver]

	// Order of locks: table, Nameserver.mu, mu.
	table  sync.Mutex // held to change byAddr
	mu     sync.Mutex
	closed bool
	cancel context.CancelFunc
	wg     sync.WaitGroup // of spawn
}

// New returns an Upstream. Nothing is sent before it gets a query. The caller calls
// [Upstream.Close]; ctx should last until then.
func New(ctx context.Context, cfg Config) (*Upstream, error) {
	if cfg.Discovery == WithDDR && cfg.Ask == nil {
		return nil, errors.New("create the upstream original: discovery by DDR needs Config.Ask")
	}
	if cfg.Max == 0 {
		cfg.Max = DefaultMax
	}
	if cfg.known == nil {
		cfg.known = upstream.Known
	}
	if cfg.port == 0 {
		cfg.port = transport.DoT.Port()
	}
	u := &Upstream{cfg: cfg}
	u.ctx, u.cancel = context.WithCancel(ctx)
	u.byAddr.Store(&map[netip.AddrPort]*Nameserver{})
	return u, nil
}

// For returns what answers the queries of clients that asked a nameserver. It does not block, and
// does not allocate for a nameserver that is remembered.
func (u *Upstream) For(nameserver netip.AddrPort) *Nameserver {
	if n := (*u.byAddr.Load())[nameserver]; n != nil {
		return n
	}
	return u.add(nameserver)
}

// add adds a nameserver. If there are too many, it removes the one that was not asked for the
// longest time.
func (u *Upstream) add(nameserver netip.AddrPort) *Nameserver {
	u.table.Lock()
	defer u.table.Unlock()
	old := *u.byAddr.Load()
	if n := old[nameserver]; n != nil {
		return n
	}
	n := newNameserver(u, nameserver)
	if u.isClosed() {
		n.closed = true
		return n
	}
	m := maps.Clone(old)
	if len(m) >= u.cfg.Max && !u.evict(m) {
		n.closed = true // all others have queries in flight
		return n
	}
	m[nameserver] = n
	u.byAddr.Store(&m)
	return n
}

// evict removes a nameserver without queries in flight from m. u.table is held.
func (u *Upstream) evict(m map[netip.AddrPort]*Nameserver) bool {
	list := slices.SortedFunc(maps.Values(m), func(a, b *Nameserver) int { return cmp.Compare(a.lastUse.Load(), b.lastUse.Load()) })
	for _, n := range list {
		if n.close(false) {
			delete(m, n.addr)
			return true
		}
	}
	return false
}

// scope returns the scope of a nameserver's answers, which differs for each group and address.
func (u *Upstream) scope(nameserver netip.AddrPort) string {
	address := "@" + nameserver.Addr().String()
	if nameserver.Port() != plainPort {
		address = "@" + nameserver.String()
	}
	name := u.cfg.Name
	if len(name)+len(address) > maxScope {
		sum := sha256.Sum256([]byte(name + address))
		return fmt.Sprintf("@%x", sum[:maxScope/2-1]) + u.cfg.Mark
	}
	return name + address
}

// Timeout returns the longest time that an exchange takes.
func (u *Upstream) Timeout() time.Duration {
	return cmp.Or(u.cfg.Group.Timeout, upstream.DefaultTimeout)
}

// Run closes groups that are not used, until ctx is canceled, and then returns nil.
func (u *Upstream) Run(ctx context.Context) error {
	tick := time.NewTicker(closeInterval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			u.closeIdle(time.Now().Add(-idleTime))
		}
	}
}

// closeGroup closes a group in the background. Queries in flight fail.
func (u *Upstream) closeGroup(g *openGroup) {
	g.stop()
	if !u.spawn(func() { _ = g.Group.Close() }) {
		_ = g.Group.Close()
	}
}

// closeIdle closes the groups that were not used since that time.
func (u *Upstream) closeIdle(since time.Time) {
	for _, n := range *u.byAddr.Load() {
		if n.lastUse.Load() < since.UnixNano() {
			n.closeGroup()
		}
	}
}

// Flush makes what [Config.Wrap] returned forget what it knows about names.
func (u *Upstream) Flush() {
	for _, n := range *u.byAddr.Load() {
		call(n.x.Flushed)
	}
}

// NetworkChanged forgets failures, and notifies the groups.
func (u *Upstream) NetworkChanged() {
	for _, n := range *u.byAddr.Load() {
		n.networkChanged()
	}
}

func (u *Upstream) isClosed() bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.closed
}

// spawn runs f in a goroutine that Close waits for. It reports false if the Upstream is closed.
func (u *Upstream) spawn(f func()) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.closed {
		return false
	}
	u.wg.Go(f)
	return true
}

// Close closes all groups and waits until all goroutines have exited. Queries in flight fail. It
// may be called more than once.
func (u *Upstream) Close() error {
	u.mu.Lock()
	u.closed = true
	u.mu.Unlock()
	u.cancel()
	u.table.Lock()
	defer u.table.Unlock()
	for _, n := range *u.byAddr.Load() {
		n.close(true)
	}
	u.wg.Wait()
	return nil
}
