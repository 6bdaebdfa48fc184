// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync/atomic"

	"sotto/forwarder"
	"sotto/internal/pathtest"
	"sotto/internal/service"
)

// dialFunc opens a connection to the listener of this process.
type dialFunc func(ctx context.Context, network string) (net.Conn, error)

// watchdog sends keep-alives to the service manager while the listener answers queries over
// UDP and TCP, until ctx ends.
func (d *daemon) watchdog(ctx context.Context) {
	service.Watchdog{
		Time: d.Watchdog, Socket: d.NotifySocket, Log: d.log,
		Replies: d.replies,
		Probe: func(ctx context.Context) error {
			return errors.Join(d.askSelf(ctx, "udp"), d.askSelf(ctx, "tcp"))
		},
	}.Run(ctx)
}

// replies returns the number of replies of the listener. Those of the kernel do not count: they
// continue without the listener.
func (d *daemon) replies() uint64 {
	t := d.hub.Totals()
	return t.Queries - t.BySource[forwarder.FromKernel].Queries
}

// askSelf sends one query to the listener and waits for the reply.
func (d *daemon) askSelf(ctx context.Context, network string) error {
	c, err := d.probeHost(ctx, network)
	if err != nil {
		return fmt.Errorf("connect to the listener over %s: %w", network, err)
	}
	defer c.Close()
	defer d.ownQuery.add(c.LocalAddr())()
	if err := pathtest.Ask(ctx, c, network == "tcp"); err != nil {
		return fmt.Errorf("ask the listener over %s: %w", network, err)
	}
	return nil
}

// dialSelf opens a connection to the listener inside its network namespace. It needs neither
// the hooks nor the host's network, whose failures a restart would not repair.
func (s *seal) dialSelf(ctx context.Context, network string) (c net.Conn, err error) {
	to := netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), listenPort)
	dial := net.Dialer{Control: s.inst.Control} // or else the hooks redirect it
	return c, errors.Join(s.inst.Do(func() error {
		c, err = dial.DialContext(ctx, network, to.String())
		return err
	}))
}

// dialListener returns a function that connects to a listener at addr.
func dialListener(addr netip.AddrPort) dialFunc {
	host := addr.Addr().Unmap()
	switch {
	case host == netip.IPv4Unspecified():
		host = netip.AddrFrom4([4]byte{127, 0, 0, 1})
	case host.IsUnspecified():
		host = netip.IPv6Loopback()
	}
	to := netip.AddrPortFrom(host, addr.Port()).String()
	return func(ctx context.Context, network string) (net.Conn, error) {
		var dial net.Dialer
		return dial.DialContext(ctx, network, to)
	}
}

// ownQueries recognizes the query of the watchdog, which is not counted or logged, by the
// address of its client. There is at most one at a time.
type ownQueries struct {
	client atomic.Pointer[netip.AddrPort]
}

// add makes the queries from a client own ones until the returned function is called.
func (o *ownQueries) add(client net.Addr) (remove func()) {
	text, err := netip.ParseAddrPort(client.String())
	if err != nil {
		return func() {}
	}
	o.client.Store(&text)
	return func() { o.client.Store(nil) }
}

// has reports whether a query comes from that client.
func (o *ownQueries) has(client netip.AddrPort) bool {
	own := o.client.Load()
	return own != nil && own.Port() == client.Port() && own.Addr() == client.Addr().Unmap()
}
