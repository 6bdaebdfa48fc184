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
	// clients is how many sockets ask, so that a peer with a socket a core gets
	// something on each.
	clients = 8

	// grace is how long a reply may still come after the last query: dnsperf's
	// own patience.
	grace = 5 * time.Second
)

// load is an open loop: queries leave at their time, whether or not earlier ones
// were answered, so a peer that stalls is seen to stall.
type load struct {
	server    netip.AddrPort
	rate      int // queries a second
	length    time.Duration
	hits      int    // names hit-0 … that may be cached
	missEvery int    // every so many queries one for a name that never was; 0: none
	prefix    string // makes those names the run's own
}

// outcome is what became of a load.
type outcome struct {
	latencies []time.Duration // of the queries that were answered
	sent      int
	took      time.Duration
}

func latencyVerb(ctx context.Context, args []string) error {
	f := flag.NewFlagSet("latency", flag.ContinueOnError)
	server := f.String("server", "127.0.0.1:53", "whom to ask")
	var l load
	f.IntVar(&l.rate, "rate", 5000, "queries a second")
	f.DurationVar(&l.length, "for", 5*time.Second, "how long")
	f.IntVar(&l.hits, "hits", 1000, "how many names are asked again and again")
	f.IntVar(&l.missEvery, "miss-every", 5, "one query in so many is for a new name")
	f.StringVar(&l.prefix, "prefix", "miss", "what the new names begin with")
	if err := f.Parse(args); err != nil {
		return err
	}
	var err error
	if l.server, err = netip.ParseAddrPort(*server); err != nil {
		return err
	}
	if l.rate < 1 || l.hits < 1 {
		return errors.New("want a rate and a number of names above zero")
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
		us(0.50), us(0.99), float64(o.sent)/o.took.Seconds(), 1-float64(len(o.latencies))/float64(o.sent))
	return nil
}

// percentile is the nearest rank in sorted: the smallest value that at least that
// share of all values does not exceed.
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
	o.sent, o.took, err = l.send(ctx, socks[:])
	for end := time.Now().Add(grace); time.Now().Before(end) && ctx.Err() == nil && waiting(socks[:]) > 0; {
		time.Sleep(10 * time.Millisecond)
	}
	cancel()
	err = errors.Join(err, g.Wait())
	for _, s := range socks {
		o.latencies = append(o.latencies, s.latencies...)
	}
	return o, err
}

// send keeps a thread to itself: the runtime's timers are a millisecond coarse,
// which would make bursts of five queries.
func (l load) send(ctx context.Context, socks []*sock) (sent int, took time.Duration, err error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	total := int(l.length.Seconds() * float64(l.rate))
	gap := time.Second / time.Duration(l.rate)
	started := time.Now()
	var buf []byte
	for sent < total && ctx.Err() == nil {
		if wait := time.Until(started.Add(time.Duration(sent) * gap)); wait > 0 {
			ts := unix.NsecToTimespec(int64(wait))
			_ = unix.Nanosleep(&ts, nil) // a signal only makes one query early
		}
		buf = appendQuery(buf[:0], l.name(sent))
		if err := socks[sent%len(socks)].send(buf); err != nil {
			return sent, time.Since(started), err
		}
		sent++
	}
	return sent, time.Since(started), nil
}

// name is what the nth query asks for.
func (l load) name(n int) string {
	if l.missEvery > 0 && n%l.missEvery == l.missEvery-1 {
		return fmt.Sprintf("%s-%d.bench.example", l.prefix, n)
	}
	return fmt.Sprintf("hit-%d.bench.example", n%l.hits)
}

// sock is one client. One thread sends, one receives.
type sock struct {
	fd        int
	next      uint16
	sentAt    [1 << 16]atomic.Int64 // by ID, wall clock in ns; 0: none waits
	inFlight  atomic.Int64
	latencies []time.Duration // the receiver's until it has returned
}

// dial opens a UDP socket on which the kernel stamps what arrives: on a machine
// that client and peer share, the client's own turn on a core comes late, and that
// is none of the peer's doing.
func dial(server netip.AddrPort) (*sock, error) {
	family, sa := unix.AF_INET6, unix.Sockaddr(&unix.SockaddrInet6{Port: int(server.Port()), Addr: server.Addr().As16()})
	if server.Addr().Is4() {
		family, sa = unix.AF_INET, &unix.SockaddrInet4{Port: int(server.Port()), Addr: server.Addr().As4()}
	}
	fd, err := unix.Socket(family, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open a UDP socket: %w", err)
	}
	// The receiver looks up from time to time whether it is over.
	patience := unix.Timeval{Usec: 50_000}
	err = errors.Join(
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TIMESTAMPNS, 1),
		unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &patience),
		unix.Connect(fd, sa),
	)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("ask %s over UDP: %w", server, err), unix.Close(fd))
	}
	return &sock{fd: fd}, nil
}

func (s *sock) close() { _ = unix.Close(s.fd) }

func (s *sock) send(query []byte) error {
	s.next++
	binary.BigEndian.PutUint16(query, s.next)
	s.inFlight.Add(1)
	s.sentAt[s.next].Store(time.Now().UnixNano())
	if _, err := unix.Write(s.fd, query); err != nil && !passing(err) {
		return fmt.Errorf("send a query: %w", err)
	}
	return nil
}

// passing errors are an answer that never comes, not the end of the load: the peer
// may be gone (ECONNREFUSED is an earlier query's) or behind.
func passing(err error) bool {
	return errors.Is(err, unix.ECONNREFUSED) || errors.Is(err, unix.ENOBUFS) || errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EINTR)
}

// receive notes the replies until ctx ends.
func (s *sock) receive(ctx context.Context) error {
	buf, oob := make([]byte, 65536), make([]byte, 128)
	for ctx.Err() == nil {
		n, oobn, _, _, err := unix.Recvmsg(s.fd, buf, oob, 0)
		if err != nil {
			if passing(err) {
				continue
			}
			return fmt.Errorf("receive a reply: %w", err)
		}
		if n < headerLen {
			continue
		}
		at := s.sentAt[binary.BigEndian.Uint16(buf)].Swap(0)
		if at == 0 {
			continue
		}
		s.inFlight.Add(-1)
		if came, ok := stamp(oob[:oobn]); ok && answered(buf[:n]) {
			s.latencies = append(s.latencies, time.Duration(came-at))
		}
	}
	return nil
}

// stamp is when the kernel had the datagram, wall clock in ns.
func stamp(oob []byte) (int64, bool) {
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

func waiting(socks []*sock) (n int64) {
	for _, s := range socks {
		n += s.inFlight.Load()
	}
	return n
}
