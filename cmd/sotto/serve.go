// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os/signal"
	"runtime"
	"strconv"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"sotto/forwarder"
)

func (e *env) serveVerb() *cobra.Command {
	var o options
	c := &cobra.Command{
		Use:   "serve [--listen ADDR]… [flags]",
		Short: "forward plain DNS over TLS: no eBPF, no root",
		Long: `Answer DNS queries over UDP and TCP on each --listen address from a cache or over
TLS, until stopped. ADDR is an address and a port (127.0.0.1:5300, [::1]:5300), or
a port on every address of both families (:5300).`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			s, err := o.settings(c)
			if err != nil {
				return err
			}
			return e.serve(c.Context(), s)
		},
	}
	c.Flags().StringArrayVarP(&o.given.Listen, "listen", "l", nil, "`address` and port to answer on; again for more (default 127.0.0.1:53)")
	o.upstreamFlags(c.Flags())
	o.configFlag(c.Flags())
	return c
}

// serve answers until a signal ends it.
func (e *env) serve(ctx context.Context, s settings) (err error) {
	log, err := e.logger(s)
	if err != nil {
		return err
	}
	addrs, err := listenAddrs(s.Listen)
	if err != nil {
		return err
	}
	r, err := newResolver(ctx, s, seam{}, log)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	var bound []*forwarder.Sockets
	for _, a := range addrs {
		sockets, err := forwarder.Listen(ctx, a, runtime.GOMAXPROCS(0))
		if err != nil {
			return errors.Join(err, closeAll(bound))
		}
		log.Info("answering", "address", netip.AddrPortFrom(a.Addr(), sockets.Addr().Port()))
		bound = append(bound, sockets)
	}
	ctx, stop := signal.NotifyContext(ctx, unix.SIGINT, unix.SIGTERM)
	defer stop()
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return r.upstreams.Run(ctx) })
	for _, sockets := range bound {
		g.Go(func() error { return r.Serve(ctx, sockets) })
	}
	notifyReady(e.getenv)
	return g.Wait()
}

func closeAll(all []*forwarder.Sockets) error {
	var errs []error
	for _, s := range all {
		errs = append(errs, s.Close())
	}
	return errors.Join(errs...)
}

// listenAddrs reads addresses with ports; a port alone means every address of
// both families.
func listenAddrs(texts []string) ([]netip.AddrPort, error) {
	var addrs []netip.AddrPort
	for _, text := range texts {
		host, port, err := net.SplitHostPort(text)
		if err != nil {
			return nil, usagef("listen address %q: want ADDR:PORT, such as 127.0.0.1:5300, [::1]:5300 or :5300", text)
		}
		n, err := strconv.ParseUint(port, 10, 16)
		if err != nil {
			return nil, usagef("listen address %q: %q is no port number (0 to 65535)", text, port)
		}
		addr := netip.IPv6Unspecified()
		if host != "" {
			if addr, err = netip.ParseAddr(host); err != nil {
				return nil, usagef("listen address %q: %q is no IP address: a name would need DNS to be known", text, host)
			}
		}
		addrs = append(addrs, netip.AddrPortFrom(addr, uint16(n)))
	}
	if len(addrs) == 0 {
		return nil, usagef("no address to listen on: give one with --listen")
	}
	return addrs, nil
}
