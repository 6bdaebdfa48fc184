// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"crypto/tls"
	"errors"
	"flag"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"sotto/internal/dnstest"
)

// recordTTL is longer than any run, so that cached answers do not expire.
const recordTTL = time.Hour

// certCommand writes ca.pem, cert.pem (the server's and the CA's certificate) and key.pem.
// All upstreams of a run use this certificate, so that a peer's configuration differs only
// in the port of the upstream.
func certCommand(_ context.Context, args []string) error {
	f := flag.NewFlagSet("cert", flag.ContinueOnError)
	dir := f.String("dir", ".", "`directory` for the files")
	name := f.String("name", "dns.example", "DNS `name` in the certificate")
	if err := f.Parse(args); err != nil {
		return err
	}
	ca, err := dnstest.NewCA()
	if err != nil {
		return err
	}
	// No address: a peer that verifies only the address must fail.
	cert, err := ca.Issue(dnstest.CertOptions{Names: []string{*name}})
	if err != nil {
		return err
	}
	chain, key, err := dnstest.PEMPair(cert)
	if err != nil {
		return err
	}
	return errors.Join(
		os.WriteFile(filepath.Join(*dir, "ca.pem"), ca.PEM(), 0o644),
		os.WriteFile(filepath.Join(*dir, "cert.pem"), chain, 0o644),
		os.WriteFile(filepath.Join(*dir, "key.pem"), key, 0o644),
	)
}

// upstreamCommand serves a wildcard zone over TLS until ctx is done.
func upstreamCommand(ctx context.Context, args []string) error {
	f := flag.NewFlagSet("upstream", flag.ContinueOnError)
	listen := f.String("listen", "127.0.0.1:8854", "`address` and port to listen on")
	dir := f.String("dir", ".", "`directory` with cert.pem and key.pem")
	delay := f.Duration("delay", 0, "delay of each reply")
	if err := f.Parse(args); err != nil {
		return err
	}
	addr, err := netip.ParseAddrPort(*listen)
	if err != nil {
		return err
	}
	cert, err := tls.LoadX509KeyPair(filepath.Join(*dir, "cert.pem"), filepath.Join(*dir, "key.pem"))
	if err != nil {
		return err
	}
	zone, err := dnstest.NewZone(dnstest.ZoneConfig{TTL: recordTTL})
	if err != nil {
		return err
	}
	var h dnstest.Handler = zone
	if *delay > 0 {
		h = dnstest.Delay(*delay, zone)
	}
	l, err := dnstest.Listen(addr)
	if err != nil {
		return err
	}
	s, err := dnstest.New(dnstest.Config{Handler: h, TLS: []net.Listener{l}, Certificate: cert})
	if err != nil {
		return errors.Join(err, l.Close())
	}
	return s.Serve(ctx)
}
