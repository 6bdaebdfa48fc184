// SPDX-License-Identifier: Apache-2.0

package metrics

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"golang.org/x/net/netutil"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

const (
	// maxConns limits the connections, so that clients of this address cannot use up the
	// process's descriptors.
	maxConns = 64

	// maxScrapes limits the scrapes at the same time.
	maxScrapes = 4

	readTime  = 5 * time.Second // for the header of a request
	writeTime = 20 * time.Second
	idleTime  = 2 * time.Minute // longer than the usual interval between scrapes

	// shutdownTime limits the wait for pending responses when the process exits.
	shutdownTime = 200 * time.Millisecond
)

// Listen opens the socket for metrics. With shared, another process of the same user may listen
// on the same address at the same time if it shares it as well: during a takeover both do. For
// port 0 a port is chosen that no other process shares.
func Listen(ctx context.Context, addr netip.AddrPort, shared bool) (net.Listener, error) {
	var lc net.ListenConfig
	if shared && addr.Port() != 0 {
		lc.Control = func(_, _ string, c syscall.RawConn) error { return share(c) }
	}
	l, err := lc.Listen(ctx, "tcp", addr.String())
	if err != nil {
		return nil, fmt.Errorf("listen for metrics: %w", err)
	}
	if shared && addr.Port() == 0 { // only now: see Listen in package forwarder
		c, err := l.(*net.TCPListener).SyscallConn()
		if err == nil {
			err = share(c)
		}
		if err != nil {
			return nil, errors.Join(fmt.Errorf("share the port for metrics: %w", err), l.Close())
		}
	}
	return netutil.LimitListener(l, maxConns), nil
}

// share lets other processes of this user bind the port of c.
func share(c syscall.RawConn) error {
	var set error
	err := c.Control(func(fd uintptr) { set = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEPORT, 1) })
	return errors.Join(err, set)
}

// Handler returns the handler of /metrics.
func Handler(from Source, log *slog.Logger) http.Handler {
	r := prometheus.NewRegistry()
	r.MustRegister(NewCollector(from), collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return promhttp.HandlerFor(r, promhttp.HandlerOpts{
		ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelDebug), ErrorHandling: promhttp.ContinueOnError, MaxRequestsInFlight: maxScrapes,
	})
}

// Serve answers requests on l until ctx ends. Then it closes l and returns nil.
func Serve(ctx context.Context, l net.Listener, h http.Handler, log *slog.Logger) error {
	srv := &http.Server{
		Handler: checkHost(h), ReadHeaderTimeout: readTime, ReadTimeout: readTime, WriteTimeout: writeTime, IdleTimeout: idleTime,
		MaxHeaderBytes: 8 << 10, ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		if err := srv.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			return fmt.Errorf("serve metrics: %w", err)
		}
		return nil
	})
	g.Go(func() error {
		<-ctx.Done()
		end, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdownTime)
		defer cancel()
		if srv.Shutdown(end) != nil {
			_ = srv.Close() // a client is slow, and gets no response
		}
		return nil
	})
	return g.Wait()
}

// checkHost refuses requests to a loopback address that name another host: a website whose name
// resolves to 127.0.0.1 could otherwise read the answers in the user's browser (DNS rebinding).
func checkHost(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		local, ok := r.Context().Value(http.LocalAddrContextKey).(*net.TCPAddr)
		if ok && local.IP.IsLoopback() && !namesLoopback(r.Host) {
			http.Error(w, "this address is answered for requests to localhost or an IP address only", http.StatusForbidden)
			return
		}
		next.ServeHTTP(w, r)
	})
}

func namesLoopback(host string) bool {
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	_, err := netip.ParseAddr(strings.Trim(host, "[]"))
	return err == nil || host == "localhost" || host == ""
}
