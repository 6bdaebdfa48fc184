// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

const (
	// clients is the number of client sockets: enough for each socket of a peer with
	// one socket per core to receive queries.
	clients = 8

	// replyTimeout is the time to wait for replies after the last query, as in dnsperf.
	replyTimeout = 5 * time.Second
)

// load describes an open loop: queries are sent at a fixed rate whether or not earlier
// ones were answered, so that stalls of a peer are measured.
type load struct {
	server    netip.AddrPort
	rate      int // queries per second
	length    time.Duration
	hits      int    // number of names hit-0 …, which may be cached
	missEvery int    // every missEvery-th query is for a new name; 0: none
	prefix    string // of the new names
}

// outcome is the result of a load.
type outcome struct {
	latencies []time.Duration // of answered queries
	sent      int
	elapsed   time.Duration
}

func latencyCommand(ctx context.Context, args []string) error {
	f := flag.NewFlagSet("latency", flag.ContinueOnError)
	server := f.String("server", "127.0.0.1:53", "`address` and port of the forwarder")
	var l load
	f.IntVar(&l.rate, "rate", 5000, "queries per second")
	f.DurationVar(&l.length, "for", 5*time.Second, "duration")
	f.IntVar(&l.hits, "hits", 1000, "number of names that repeat")
	f.IntVar(&l.missEvery, "miss-every", 5, "every N-th query is for a new name")
	f.StringVar(&l.prefix, "prefix", "miss", "prefix of new names")
	if err := f.Parse(args); err != nil {
		return err
	}
	var err error
	if l.server, err = netip.ParseAddrPort(*server); err != nil {
		return err
	}
	if l.rate < 1 || l.hits < 1 {
		return errors.New("-rate and -hits must be at least 1")
	}
	o, err := l.run(ctx)
	if err != nil {
		return err
	}
	if len(o.latencies) == 0 {
		return fmt.Errorf("none of %d queries was answered", o.sent)
	}
	slices.Sort(o.latencies)
	us := func(share float64) float64 { return float64(percentile(o.latencies, share)) / 1e3 }
	fmt.Fprintf(os.Stdout, "p50_us\t%.1f\np99_us\t%.1f\nrate_qps\t%.0f\nrate_lost\t%.4f\n",
		us(0.50), us(0.99), float64(o.sent)/o.elapsed.Seconds(), 1-float64(len(o.latencies))/float64(o.sent))
	return nil
}

// percentile returns the nearest-rank percentile: the smallest value in sorted such that at
// least the given share of all values does not exceed it.
func percentile(sorted []time.Duration, share float64) time.Duration {
	rank := int(share*float64(len(sorted)) + 0.999999)
	return sorted[min(max(rank, 1), len(sorted))-1]
}

// run sends the load and waits for the replies.
func (l load) run(ctx context.Context) (outcome, error) {
	var o outcome
	var socks [clients]*sock
	for i := range socks {
		s, err := dial(l.server)
		if err != nil {
			return o, err
		}
		defer s.close()
		socks[i] = s
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var g errgroup.Group
	for _, s := range socks {
		g.Go(func() error { return s.receive(ctx) })
	}
	var err error
	o.sent, o.elapsed, err = l.send(ctx, socks[:])
	for end := time.Now().Add(replyTimeout); time.Now().Before(end) && ctx.Err() == nil && pending(socks[:]) > 0; {
		time.Sleep(10 * time.Millisecond)
	}
	cancel()
	err = errors.Join(err, g.Wait())
	for _, s := range socks {
		o.latencies = append(o.latencies, s.latencies...)
	}
	return o, err
}

// send sends the queries from a locked thread with nanosleep: the runtime's timers have a
// resolution of about a millisecond, which would cause bursts of five queries.
func (l load) send(ctx context.Context, socks []*sock) (sent int, elapsed time.Duration, err error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	total := int(l.length.Seconds() * float64(l.rate))
	gap := time.Second / time.Duration(l.rate)
	started := time.Now()
	var buf []byte
	for sent < total && ctx.Err() == nil {
		if wait := time.Until(started.Add(time.Duration(sent) * gap)); wait > 0 {
			ts := unix.NsecToTimespec(int64(wait))
			_ = unix.Nanosleep(&ts, nil) // interrupted by a signal, the query is sent early
		}
		buf = appendQuery(buf[:0], l.name(sent))
		if err := socks[sent%len(socks)].send(buf); err != nil {
			return sent, time.Since(started), err
		}
		sent++
	}
	return sent, time.Since(started), nil
}

// name returns the name in the nth query.
func (l load) name(n int) string {
	if l.missEvery > 0 && n%l.missEvery == l.missEvery-1 {
		return fmt.Sprintf("%s-%d.bench.example", l.prefix, n)
	}
	return fmt.Sprintf("hit-%d.bench.example", n%l.hits)
}

// sock is one client socket. One goroutine sends and one receives.
type sock struct {
	fd        int
	next      uint16
	sentAt    [1 << 16]atomic.Int64 // by ID, wall clock in ns; 0: no query pending
	inFlight  atomic.Int64
	latencies []time.Duration // owned by receive until it returns
}

// dial opens a UDP socket with kernel receive timestamps. They exclude the time that the
// client waits for a core, which it shares with the peer.
func dial(server netip.AddrPort) (*sock, error) {
	family, sa := unix.AF_INET6, unix.Sockaddr(&unix.SockaddrInet6{Port: int(server.Port()), Addr: server.Addr().As16()})
	if server.Addr().Is4() {
		family, sa = unix.AF_INET, &unix.SockaddrInet4{Port: int(server.Port()), Addr: server.Addr().As4()}
	}
	fd, err := unix.Socket(family, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open UDP socket: %w", err)
	}
	// The receiver checks for the end of the run at this interval.
	poll := unix.Timeval{Usec: 50_000}
	err = errors.Join(
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TIMESTAMPNS, 1),
		unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &poll),
		unix.Connect(fd, sa),
	)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("connect to %s over UDP: %w", server, err), unix.Close(fd))
	}
	return &sock{fd: fd}, nil
}

func (s *sock) close() { _ = unix.Close(s.fd) }

func (s *sock) send(query []byte) error {
	s.next++
	binary.BigEndian.PutUint16(query, s.next)
	s.inFlight.Add(1)
	s.sentAt[s.next].Store(time.Now().UnixNano())
	if _, err := unix.Write(s.fd, query); err != nil && !temporary(err) {
		return fmt.Errorf("send query: %w", err)
	}
	return nil
}

// temporary reports whether an error means only that a query is lost: the peer may have
// exited (ECONNREFUSED is caused by an earlier query) or be overloaded.
func temporary(err error) bool {
	return errors.Is(err, unix.ECONNREFUSED) || errors.Is(err, unix.ENOBUFS) || errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EINTR)
}

// receive records replies until ctx is done.
func (s *sock) receive(ctx context.Context) error {
	buf, oob := make([]byte, 65536), make([]byte, 128)
	for ctx.Err() == nil {
		n, oobn, _, _, err := unix.Recvmsg(s.fd, buf, oob, 0)
		if err != nil {
			if temporary(err) {
				continue
			}
			return fmt.Errorf("receive reply: %w", err)
		}
		if n < headerLen {
			continue
		}
		at := s.sentAt[binary.BigEndian.Uint16(buf)].Swap(0)
		if at == 0 {
			continue
		}
		s.inFlight.Add(-1)
		if received, ok := timestamp(oob[:oobn]); ok && answered(buf[:n]) {
			s.latencies = append(s.latencies, time.Duration(received-at))
		}
	}
	return nil
}

// timestamp returns the kernel's receive timestamp of a datagram, wall clock in ns.
func timestamp(oob []byte) (int64, bool) {
	msgs, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return 0, false
	}
	for _, m := range msgs {
		if m.Header.Level == unix.SOL_SOCKET && m.Header.Type == unix.SCM_TIMESTAMPNS && len(m.Data) >= 16 {
			return int64(binary.NativeEndian.Uint64(m.Data))*1e9 + int64(binary.NativeEndian.Uint64(m.Data[8:])), true
		}
	}
	return 0, false
}

// pending returns the number of queries without a reply.
func pending(socks []*sock) (n int64) {
	for _, s := range socks {
		n += s.inFlight.Load()
	}
	return n
}
