// SPDX-License-Identifier: Apache-2.0

package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/miekg/dns"

	"sotto/internal/netlab/labtest"
)

// LoadReport is the result that the client "load" prints at the end.
type LoadReport struct {
	UDP, TCP, Short int64 // queries over UDP, over long-lived connections, and over one connection each
	Lost            int64 // not answered within loadTimeout
	Reset           int64 // connections that were reset, refused or closed
	Failed          int64 // SERVFAIL
	Wrong           int64 // other answers than the upstream's
	First           string
}

// Queries returns the number of queries over all transports.
func (r LoadReport) Queries() int64 { return r.UDP + r.TCP + r.Short }

// Complete returns an error unless queries over all transports were sent, and the upstream's
// answer to each arrived.
func (r LoadReport) Complete() error {
	if r.Lost+r.Reset+r.Failed+r.Wrong > 0 || r.UDP == 0 || r.TCP == 0 || r.Short == 0 {
		return fmt.Errorf("%+v", r)
	}
	return nil
}

// loadTimeout is how long a client waits for an answer. It does not retry.
var loadTimeout = labtest.Patience(8 * time.Second)

// load sends RATE queries per second over long-lived sockets of every kind until its
// standard input is closed.
type load struct {
	LoadReport
	names  atomic.Int64
	tokens chan struct{}
	first  sync.Once
}

func runLoad(args []string) error {
	rate, err := strconv.Atoi(args[0])
	if err != nil {
		return err
	}
	l := &load{tokens: make(chan struct{}, 64)}
	ctx, stop := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	for n := range 12 {
		wg.Go(func() { l.udp(ctx, []string{"8.8.8.8", "2001:db8::53"}[n%2], n%3 == 0) })
	}
	for n := range 4 {
		wg.Go(func() { l.tcp(ctx, []string{"8.8.8.8", "2001:db8::53"}[n%2]) })
	}
	wg.Go(func() { l.short(ctx) })
	go l.pace(ctx, rate)
	_, err = io.Copy(io.Discard, os.Stdin)
	stop()
	wg.Wait()
	return errors.Join(err, json.NewEncoder(os.Stdout).Encode(l.LoadReport))
}

// pace issues tokens at the rate. Each query takes one.
func (l *load) pace(ctx context.Context, rate int) {
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	start, issued := time.Now(), 0
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		due := int(time.Since(start).Seconds() * float64(rate))
		for ; issued < due; issued++ {
			select {
			case l.tokens <- struct{}{}:
			default: // the clients are too slow: do not catch up
				issued = due - 1
			}
		}
	}
}

// next returns a query: half of the names were never queried before, by any process, and
// half are cached. It reports false when the load is stopped.
func (l *load) next(ctx context.Context) (*dns.Msg, bool) {
	select {
	case <-l.tokens:
	case <-ctx.Done():
		return nil, false
	}
	n := l.names.Add(1)
	name := fmt.Sprintf("n%d-%d.load.example.", os.Getpid(), n)
	if n%2 == 0 {
		name = fmt.Sprintf("n%d.cached.example.", n%16)
	}
	m := new(dns.Msg)
	m.SetQuestion(name, dns.TypeA)
	m.Id = uint16(n)
	return m, true
}

// failed counts an error, and keeps the first one for the report.
func (l *load) failed(what string, err error) {
	if errors.Is(err, os.ErrDeadlineExceeded) {
		atomic.AddInt64(&l.Lost, 1)
	} else {
		atomic.AddInt64(&l.Reset, 1)
	}
	l.first.Do(func() { l.First = fmt.Sprintf("%s: %v", what, err) })
}

func (l *load) check(r *dns.Msg) {
	if a, ok := first(r.Answer).(*dns.A); r.Rcode == dns.RcodeSuccess && ok && a.A.String() == Answer4 {
		return
	}
	if r.Rcode == dns.RcodeServerFailure {
		atomic.AddInt64(&l.Failed, 1)
	} else {
		atomic.AddInt64(&l.Wrong, 1)
	}
	l.first.Do(func() { l.First = r.String() })
}

func first(rrs []dns.RR) dns.RR {
	if len(rrs) == 0 {
		return nil
	}
	return rrs[0]
}

// udp sends one query after the other from one socket, connected or not.
func (l *load) udp(ctx context.Context, server string, unconnected bool) {
	to := &net.UDPAddr{IP: net.ParseIP(server), Port: 53}
	c, err := net.ListenUDP("udp", nil)
	if !unconnected {
		c, err = net.DialUDP("udp", nil, to)
	}
	if err != nil {
		l.failed("udp", err)
		return
	}
	defer c.Close()
	buf := make([]byte, 4096)
	for {
		m, ok := l.next(ctx)
		if !ok {
			return
		}
		b, _ := m.Pack()
		_ = c.SetDeadline(time.Now().Add(loadTimeout))
		if unconnected {
			_, err = c.WriteToUDP(b, to)
		} else {
			_, err = c.Write(b)
		}
		if err == nil {
			var n int
			if n, err = c.Read(buf); err == nil {
				r := new(dns.Msg)
				if err = r.Unpack(buf[:n]); err == nil && r.Id == m.Id {
					l.check(r)
				}
			}
		}
		if err != nil {
			l.failed("udp", err)
		}
		atomic.AddInt64(&l.UDP, 1)
	}
}

// tcp sends up to eight queries at a time over one connection for as long as that is open.
func (l *load) tcp(ctx context.Context, server string) {
	for ctx.Err() == nil {
		c, err := net.DialTimeout("tcp", net.JoinHostPort(server, "53"), loadTimeout)
		if err == nil {
			err = l.pipeline(ctx, &dns.Conn{Conn: c})
			_ = c.Close()
		}
		if err != nil {
			l.failed("tcp", err)
		}
	}
}

func (l *load) pipeline(ctx context.Context, c *dns.Conn) error {
	for {
		open := 0
		_ = c.SetDeadline(time.Now().Add(loadTimeout))
		for range 8 {
			m, ok := l.next(ctx)
			if !ok {
				break
			}
			if err := c.WriteMsg(m); err != nil {
				return err
			}
			open++
		}
		if open == 0 {
			return nil
		}
		for range open {
			r, err := c.ReadMsg()
			if err != nil {
				return err
			}
			l.check(r)
			atomic.AddInt64(&l.TCP, 1)
		}
	}
}

// short opens a connection for each query.
func (l *load) short(ctx context.Context) {
	for {
		m, ok := l.next(ctx)
		if !ok {
			return
		}
		c := dns.Client{Net: "tcp", Timeout: loadTimeout}
		r, _, err := c.Exchange(m, "8.8.4.4:53")
		if err != nil {
			l.failed("short tcp", err)
		} else {
			l.check(r)
		}
		atomic.AddInt64(&l.Short, 1)
	}
}
