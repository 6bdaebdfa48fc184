// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os/signal"
	"runtime"
	"strconv"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"sotto/forwarder"
	"sotto/internal/privdrop"
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
			load := o.loader(c, planFor{serve: true, read: readFile})
			if o.check {
				return e.check(load, nil)
			}
			return e.serve(c.Context(), load)
		},
	}
	c.Flags().StringArrayVarP(&o.given.Listen, "listen", "l", nil, "`address` and port to answer on; again for more (default 127.0.0.1:53)")
	o.upstreamFlags(c.Flags())
	o.fileFlags(c.Flags())
	return c
}

// serve answers until a signal ends it.
func (e *env) serve(ctx context.Context, load loader) (err error) {
	hup := catchReloads()
	defer signal.Stop(hup)
	_, p, err := load()
	if err != nil {
		return err
	}
	st := e.steering(load, p, func(p plan) []fixed { return []fixed{{"listen", p.listen}} })
	if st.r, err = newResolver(ctx, p, seam{}, st.log); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, st.r.Close()) }()
	st.restore()
	var bound []*forwarder.Sockets
	for _, a := range p.listen {
		sockets, err := forwarder.Listen(ctx, a, runtime.GOMAXPROCS(0))
		if err != nil {
			return errors.Join(err, closeAll(bound))
		}
		st.log.Info("answering", "address", netip.AddrPortFrom(a.Addr(), sockets.Addr().Port()))
		bound = append(bound, sockets)
	}
	if err := st.listen(ctx); err != nil {
		return errors.Join(err, closeAll(bound))
	}
	defer st.close()
	ctx, stop := signal.NotifyContext(ctx, unix.SIGINT, unix.SIGTERM)
	defer stop()
	e.confine(st.log, nil, privdrop.Kernel()...) // it touches nothing of the machine's
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return st.r.Run(ctx) })
	g.Go(func() error { return st.run(ctx, hup) })
	for _, sockets := range bound {
		g.Go(func() error { return st.r.Serve(ctx, sockets) })
	}
	st.notify(stateReady)
	if err := g.Wait(); err != nil {
		return err
	}
	st.keep()
	return nil
}

func closeAll(all []*forwarder.Sockets) error {
	var errs []error
	for _, s := range all {
		errs = append(errs, s.Close())
	}
	return errors.Join(errs...)
}

// listenAddr reads an address with its port; a port alone means every address of
// both families.
func listenAddr(text string) (netip.AddrPort, error) {
	host, port, err := net.SplitHostPort(text)
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("listen address %q: want ADDR:PORT, such as 127.0.0.1:5300, [::1]:5300 or :5300", text)
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("listen address %q: %q is no port number (0 to 65535)", text, port)
	}
	addr := netip.IPv6Unspecified()
	if host != "" {
		if addr, err = netip.ParseAddr(host); err != nil {
			return netip.AddrPort{}, fmt.Errorf("listen address %q: %q is no IP address: a name would need DNS to be known", text, host)
		}
	}
	return netip.AddrPortFrom(addr, uint16(n)), nil
}
