// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"flag"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"sotto/internal/dnstest"
)

// recordTTL is longer than any run: what was cached stays cached.
const recordTTL = time.Hour

// certVerb writes ca.pem, cert.pem (the leaf and the authority) and key.pem. All
// upstreams of a run show this one certificate, so that a peer needs no other
// configuration for another upstream.
func certVerb(_ context.Context, args []string) error {
	f := flag.NewFlagSet("cert", flag.ContinueOnError)
	dir := f.String("dir", ".", "where to write")
	name := f.String("name", "dns.example", "the certificate's name")
	if err := f.Parse(args); err != nil {
		return err
	}
	ca, err := dnstest.NewCA()
	if err != nil {
		return err
	}
	// The name alone: a peer that checks only the address must not pass.
	cert, err := ca.Issue(dnstest.CertOptions{Names: []string{*name}})
	if err != nil {
		return err
	}
	key, err := x509.MarshalPKCS8PrivateKey(cert.PrivateKey)
	if err != nil {
		return fmt.Errorf("write the certificate's key: %w", err)
	}
	var chain []byte
	for _, der := range cert.Certificate {
		chain = append(chain, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})...)
	}
	return errors.Join(
		os.WriteFile(filepath.Join(*dir, "ca.pem"), ca.PEM(), 0o644),
		os.WriteFile(filepath.Join(*dir, "cert.pem"), chain, 0o644),
		os.WriteFile(filepath.Join(*dir, "key.pem"), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key}), 0o644),
	)
}

// upstreamVerb serves a wildcard zone over TLS until ctx ends.
func upstreamVerb(ctx context.Context, args []string) error {
	f := flag.NewFlagSet("upstream", flag.ContinueOnError)
	listen := f.String("listen", "127.0.0.1:8854", "address and port")
	dir := f.String("dir", ".", "where cert.pem and key.pem are")
	delay := f.Duration("delay", 0, "how much later to answer")
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
