// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"syscall"

	"sotto/forwarder"
	"sotto/forwarder/cache"
	"sotto/forwarder/upstream"
	"sotto/forwarder/wire"
)

// resolver is the DNS half of every verb: a forwarder with its cache and its
// upstreams.
type resolver struct {
	*forwarder.Forwarder
	upstreams *upstream.Group
	cache     *cache.Cache
}

// seam is what the kernel half gives the DNS half. Both are nil for `serve`.
type seam struct {
	origins func(netip.Addr) (forwarder.Origin, bool)
	control func(network, address string, c syscall.RawConn) error
}

// newResolver builds what s describes. It asks nobody yet: a machine whose
// network comes up later is no error. The caller closes it; ctx should outlive
// the serving.
func newResolver(ctx context.Context, s settings, k seam, log *slog.Logger) (_ *resolver, err error) {
	r := &resolver{}
	defer func() {
		if err != nil {
			err = errors.Join(err, r.Close())
		}
	}()
	ucfg, err := upstreamConfig(s)
	if err != nil {
		return nil, err
	}
	ucfg.Control, ucfg.Log = k.control, log
	if r.upstreams, err = upstream.New(ucfg); err != nil {
		return nil, err
	}
	if s.CacheMiB < 0 {
		return nil, usagef("cache-mib is %d: want 0 (no cache) or more", s.CacheMiB)
	}
	if s.CacheMiB > 0 {
		if r.cache, err = cache.New(cache.Config{MaxBytes: int64(s.CacheMiB) << 20}); err != nil {
			return nil, err
		}
	}
	fcfg := forwarder.Config{Upstream: r.upstreams, Cache: r.cache, Origins: k.origins, Log: log}
	if s.LogQueries {
		fcfg.Observe = logQueries(log)
	}
	r.Forwarder, err = forwarder.New(ctx, fcfg)
	return r, err
}

// Close ends what is in flight and frees everything.
func (r *resolver) Close() error {
	var errs []error
	if r.Forwarder != nil {
		errs = append(errs, r.Forwarder.Close())
	}
	if r.upstreams != nil {
		errs = append(errs, r.upstreams.Close())
	}
	if r.cache != nil {
		r.cache.Close()
	}
	return errors.Join(errs...)
}

// upstreamConfig reads the servers, pins and authorities that s names.
func upstreamConfig(s settings) (upstream.Config, error) {
	var cfg upstream.Config
	var pins []upstream.Pin
	for _, text := range s.Pins {
		pin, err := upstream.ParsePin(text)
		if err != nil {
			return cfg, usageError{err}
		}
		pins = append(pins, pin)
	}
	if len(s.Upstream) == 0 {
		return cfg, usagef("no upstream: name one, such as quad9 or 192.0.2.1#dns.example")
	}
	for _, text := range s.Upstream {
		servers, err := upstream.ParseServer(text)
		if err != nil {
			return cfg, usageError{err}
		}
		for i := range servers {
			servers[i].Pins = pins
		}
		cfg.Servers = append(cfg.Servers, servers...)
	}
	var err error
	cfg.RootCAs, err = authorities(s.CAFile)
	return cfg, err
}

// authorities returns the system's certificate authorities and those in file.
func authorities(file string) (*x509.CertPool, error) {
	if file == "" {
		return nil, nil // the system's, as crypto/tls finds them
	}
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("read certificate authorities: %w", err)
	}
	pool, err := x509.SystemCertPool()
	if err != nil {
		pool = x509.NewCertPool() // a machine without any has the file's alone
	}
	if !pool.AppendCertsFromPEM(text) {
		return nil, fmt.Errorf("read certificate authorities: %s holds no PEM certificate", file)
	}
	return pool, nil
}

// logQueries returns an observer that writes a line a query.
func logQueries(log *slog.Logger) func(forwarder.Event) {
	return func(ev forwarder.Event) {
		proto := "udp"
		if ev.TCP {
			proto = "tcp"
		}
		attrs := []any{"name", ev.Name, "type", wire.TypeName(ev.Type), "rcode", wire.RcodeName(ev.Rcode),
			"proto", proto, "client", ev.Client, "cached", ev.Cached, "ms", ev.Duration.Milliseconds()}
		if ev.Origin.Addr.IsValid() {
			attrs = append(attrs, "nameserver", ev.Origin.Addr, "workload", ev.Origin.Workload)
		}
		if ev.Err != nil {
			attrs = append(attrs, "err", ev.Err)
		}
		log.Info("query", attrs...)
	}
}
