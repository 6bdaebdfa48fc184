// SPDX-License-Identifier: Apache-2.0

package demo

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"

	"sotto/internal/dnstest"
	"sotto/internal/netlab"
)

// servers are the running nameservers of the LAN.
type servers struct {
	cancel context.CancelFunc
	done   chan error
}

// serve starts plain nameservers and a DNS over TLS server, all with the same zone,
// and writes the CA certificate to caFile.
func serve(ctx context.Context, lan *netlab.Host, plain []netip.Addr, caFile string) (*servers, error) {
	ca, err := dnstest.NewCA()
	if err != nil {
		return nil, err
	}
	cert, err := ca.Issue(dnstest.CertOptions{Names: []string{upstreamName}})
	if err != nil {
		return nil, err
	}
	if err := os.WriteFile(caFile, ca.PEM(), 0o644); err != nil {
		return nil, fmt.Errorf("write CA certificate: %w", err)
	}
	zone, err := dnstest.NewZone(dnstest.ZoneConfig{
		A: []netip.Addr{netip.MustParseAddr("203.0.113.80")}, AAAA: []netip.Addr{netip.MustParseAddr("2001:db8::80")},
	})
	if err != nil {
		return nil, err
	}
	cfg := dnstest.Config{Handler: zone, Certificate: cert}
	if err := lan.Do(func() error { return listen(&cfg, plain) }); err != nil {
		return nil, errors.Join(fmt.Errorf("start nameservers: %w", err), closeSockets(cfg))
	}
	srv, err := dnstest.New(cfg)
	if err != nil {
		return nil, errors.Join(err, closeSockets(cfg))
	}
	ctx, cancel := context.WithCancel(ctx)
	s := &servers{cancel: cancel, done: make(chan error, 1)}
	go func() { s.done <- srv.Serve(ctx) }()
	return s, nil
}

// stop stops the servers and waits for them.
func (s *servers) stop() error {
	s.cancel()
	return <-s.done
}

// listen opens the sockets in the network namespace of the calling thread.
func listen(cfg *dnstest.Config, plain []netip.Addr) error {
	for _, addr := range plain {
		l, pc, err := dnstest.ListenPlain(netip.AddrPortFrom(addr, 53))
		if err != nil {
			return err
		}
		cfg.TCP, cfg.UDP = append(cfg.TCP, l), append(cfg.UDP, pc)
	}
	l, err := dnstest.Listen(netip.AddrPortFrom(netip.MustParseAddr(upstreamAddr), 853))
	if err != nil {
		return err
	}
	cfg.TLS = []net.Listener{l}
	return nil
}

// closeSockets closes sockets that no server owns yet.
func closeSockets(cfg dnstest.Config) error {
	var errs []error
	for _, l := range append(cfg.TLS, cfg.TCP...) {
		errs = append(errs, l.Close())
	}
	for _, pc := range cfg.UDP {
		errs = append(errs, pc.Close())
	}
	return errors.Join(errs...)
}
