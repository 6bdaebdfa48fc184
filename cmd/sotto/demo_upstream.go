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

	"sotto/internal/config"
	"sotto/internal/dnstest"
)

func (e *env) demoUpstreamCommand() *cobra.Command {
	var listen, caOut, name string
	c := &cobra.Command{
		Use:   "upstream --listen ADDR --ca-out FILE",
		Short: "Run only the demo's DNS over TLS server",
		Long: `  sotto demo upstream --listen 127.0.0.1:8853 --ca-out ca.pem
  sotto serve --listen :5300 --upstream 127.0.0.1:8853#dns.example --ca-file ca.pem

Answer DNS over TLS on ADDR with invented addresses, until stopped, to try Sotto without
internet access. The server's certificate, for NAME and the address, is signed by a
temporary certificate authority that is valid for a day, whose certificate is written to
FILE for use with --ca-file. Do not offer this server to other people's networks.`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			addr, err := config.ListenAddr(listen)
			if err != nil {
				return config.UsageError{Err: err}
			}
			ctx, stop := signal.NotifyContext(c.Context(), unix.SIGINT, unix.SIGTERM)
			defer stop()
			return e.demoUpstream(ctx, addr, caOut, name)
		},
	}
	c.Flags().StringVar(&listen, "listen", "127.0.0.1:853", "`address` and port to listen on")
	c.Flags().StringVar(&caOut, "ca-out", "", "`file` to write the certificate of the authority to")
	c.Flags().StringVar(&name, "name", "dns.example", "`name` in the certificate")
	_ = c.MarkFlagRequired("ca-out")
	return c
}

// demoUpstream serves until ctx ends. The file is complete before queries are answered, and
// is not removed.
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
		err = writeFile(caOut, ca.PEM())
	}
	if err != nil {
		return errors.Join(err, l.Close())
	}
	fmt.Fprintf(e.stderr, "answering DNS over TLS on %s as %s; trust it with --ca-file %s\n", l.Addr(), name, caOut)
	return srv.Serve(ctx)
}

// writeFile replaces the file at path atomically.
func writeFile(path string, text []byte) error {
	tmp, err := os.CreateTemp(filepath.Dir(path), ".sotto-*")
	if err != nil {
		return err
	}
	defer os.Remove(tmp.Name()) // fails after the rename
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
