// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/signal"
	"path/filepath"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"sotto/internal/dnstest"
)

func (e *env) demoUpstreamVerb() *cobra.Command {
	var listen, caOut, name string
	c := &cobra.Command{
		Use:   "upstream --listen ADDR --ca-out FILE",
		Short: "run the demo's own DNS over TLS server alone",
		Long: `Answer DNS over TLS on ADDR with made-up addresses, for trying Sotto where there is
no internet, until stopped. The certificate, for NAME and the address, is signed by
an authority made for this run and valid for a day; its own certificate is written
to FILE, for --ca-file. Never give this server to a network that is not your own.`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			addr, err := listenAddr(listen)
			if err != nil {
				return usageError{err}
			}
			ctx, stop := signal.NotifyContext(c.Context(), unix.SIGINT, unix.SIGTERM)
			defer stop()
			return e.demoUpstream(ctx, addr, caOut, name)
		},
	}
	c.Flags().StringVar(&listen, "listen", "127.0.0.1:853", "`address` and port to answer on")
	c.Flags().StringVar(&caOut, "ca-out", "", "`file` to write the authority's certificate to")
	c.Flags().StringVar(&name, "name", "dns.example", "`name` to show in the certificate")
	_ = c.MarkFlagRequired("ca-out")
	return c
}

// demoUpstream serves until ctx ends. The file is there when queries are
// answered, whole, and stays.
func (e *env) demoUpstream(ctx context.Context, addr netip.AddrPort, caOut, name string) error {
	ca, err := dnstest.NewCA()
	if err != nil {
		return err
	}
	opts := dnstest.CertOptions{Names: []string{name}}
	if !addr.Addr().IsUnspecified() {
		opts.IPs = []netip.Addr{addr.Addr()}
	}
	cert, err := ca.Issue(opts)
	if err != nil {
		return err
	}
	zone, err := dnstest.NewZone(dnstest.ZoneConfig{})
	if err != nil {
		return err
	}
	l, err := dnstest.Listen(addr)
	if err != nil {
		return err
	}
	srv, err := dnstest.New(dnstest.Config{Handler: zone, TLS: []net.Listener{l}, Certificate: cert})
	if err == nil {
		err = writeWhole(caOut, ca.PEM())
	}
	if err != nil {
		return errors.Join(err, l.Close())
	}
	fmt.Fprintf(e.stderr, "answering DNS over TLS on %s as %s; trust it with --ca-file %s\n", l.Addr(), name, caOut)
	return srv.Serve(ctx)
}

// writeWhole puts text in place at once: a reader finds all of it, or what was
// there before.
func writeWhole(path string, text []byte) error {
	tmp, err := os.CreateTemp(filepath.Dir(path), ".sotto-*")
	if err != nil {
		return err
	}
	defer os.Remove(tmp.Name()) // gone already when the rename was done
	if _, err := tmp.Write(text); err != nil {
		return err
	}
	if err := tmp.Chmod(0o644); err != nil {
		return err
	}
	if err := tmp.Close(); err != nil {
		return err
	}
	return os.Rename(tmp.Name(), path)
}
