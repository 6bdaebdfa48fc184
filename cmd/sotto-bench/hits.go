// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/net/ipv4"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

const (
	// batchTimeout is how long a sender waits for the replies to a batch. What has not arrived
	// by then is lost.
	batchTimeout = 200 * time.Millisecond

	// datagramLen is the length of the datagrams that a socket sends to itself: that of a
	// query for a short name.
	datagramLen = 40
)

// hitLoad describes a closed loop of queries for names that are cached.
type hitLoad struct {
	server  netip.AddrPort // not valid: each socket sends datagrams to itself
	self    netip.AddrPort // of the first thread's socket then; the next thread has the next address
	names   int
	length  time.Duration
	threads int // one socket each
	batch   int // queries that a thread sends in one system call before it waits for their replies
}

// hitOutcome is the result of a [hitLoad].
type hitOutcome struct {
	trips   []time.Duration // from before a batch is sent until its last reply was read
	answers int
	lost    int
	elapsed time.Duration
	busy    time.Duration // CPU time of the whole machine, idle time excluded
}

func hitsCommand(ctx context.Context, args []string) error {
	f := flag.NewFlagSet("hits", flag.ContinueOnError)
	server := f.String("server", "127.0.0.1:53", "`address` and port of the forwarder; \"self=ADDRESS:PORT\": each thread sends to itself, the second at the next address")
	var l hitLoad
	f.IntVar(&l.names, "names", 1000, "number of names hit-0 …")
	f.DurationVar(&l.length, "for", 3*time.Second, "duration")
	f.IntVar(&l.threads, "threads", 1, "threads, with a socket each")
	f.IntVar(&l.batch, "batch", 1, "queries in one system call")
	if err := f.Parse(args); err != nil {
		return err
	}
	var err error
	if self, ok := strings.CutPrefix(*server, "self="); ok {
		l.self, err = netip.ParseAddrPort(self)
	} else {
		l.server, err = netip.ParseAddrPort(*server)
	}
	if err != nil {
		return err
	}
	if l.names < 1 || l.threads < 1 || l.batch < 1 || l.length <= 0 {
		return errors.New("-names, -threads, -batch and -for must be positive")
	}
	o, err := l.run(ctx)
	if err != nil {
		return err
	}
	if o.answers == 0 {
		return errors.New("no query was answered")
	}
	slices.Sort(o.trips)
	us := func(share float64) float64 { return float64(percentile(o.trips, share)) / 1e3 }
	fmt.Fprintf(os.Stdout, "p50_us\t%.2f\np99_us\t%.2f\nqps\t%.0f\nlost\t%.5f\ncpu\t%.2f\n", us(0.50), us(0.99),
		float64(o.answers)/o.elapsed.Seconds(), float64(o.lost)/float64(o.lost+o.answers), o.busy.Seconds()*1e6/float64(o.answers))
	return nil
}

// run sends the load from all threads and waits until they have stopped.
func (l hitLoad) run(ctx context.Context) (o hitOutcome, err error) {
	ctx, cancel := context.WithTimeout(ctx, l.length)
	defer cancel()
	outcomes := make([]hitOutcome, l.threads)
	before, err := busyTime()
	if err != nil {
		return o, err
	}
	started := time.Now()
	var g errgroup.Group
	for i := range outcomes {
		g.Go(func() (err error) {
			outcomes[i], err = l.thread(ctx, i)
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return o, err
	}
	o.elapsed = time.Since(started)
	after, err := busyTime()
	if err != nil {
		return o, err
	}
	o.busy = after - before
	for _, part := range outcomes {
		o.trips = append(o.trips, part.trips...)
		o.answers += part.answers
		o.lost += part.lost
	}
	return o, nil
}

// thread sends batches until ctx is done. Its system calls block: the runtime's poller would add
// a wake-up to every round trip.
func (l hitLoad) thread(ctx context.Context, n int) (o hitOutcome, err error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	c, err := l.socket(n)
	if err != nil {
		return o, err
	}
	defer c.Close()
	raw, err := c.SyscallConn()
	if err != nil {
		return o, err
	}
	if l.batch > 1 {
		return o, l.batches(ctx, c, n, &o)
	}
	var failed error
	err = raw.Control(func(fd uintptr) { failed = l.single(ctx, int(fd), n, &o) })
	return o, errors.Join(err, failed)
}

// socket returns a socket of a thread that is connected to the server, or to itself.
func (l hitLoad) socket(thread int) (*net.UDPConn, error) {
	if l.server.IsValid() {
		return net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(l.server))
	}
	addr := l.self.Addr()
	for range thread {
		addr = addr.Next()
	}
	c, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(addr, l.self.Port())))
	if err != nil {
		return nil, err
	}
	raw, err := c.SyscallConn()
	if err != nil {
		return nil, errors.Join(err, c.Close())
	}
	var failed error
	err = raw.Control(func(fd uintptr) {
		var own unix.Sockaddr
		if own, failed = unix.Getsockname(int(fd)); failed == nil {
			failed = unix.Connect(int(fd), own)
		}
	})
	if err = errors.Join(err, failed); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return c, nil
}

// message returns the nth message of a thread. Threads start at different names.
func (l hitLoad) message(dst []byte, n int) []byte {
	if !l.server.IsValid() {
		return append(dst, make([]byte, datagramLen)...)
	}
	return appendQuery(dst, "hit-"+strconv.Itoa(n%l.names)+".bench.example")
}

// single sends one query at a time.
func (l hitLoad) single(ctx context.Context, fd, thread int, o *hitOutcome) error {
	if err := unix.SetNonblock(fd, false); err != nil {
		return err
	}
	limit := unix.NsecToTimeval(int64(batchTimeout))
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &limit); err != nil {
		return err
	}
	query, reply := make([]byte, 0, 512), make([]byte, 4096)
	for n := thread * 97; ctx.Err() == nil; n++ {
		query = l.message(query[:0], n)
		binary.BigEndian.PutUint16(query, uint16(n))
		started := time.Now()
		if _, err := unix.Write(fd, query); err != nil {
			return fmt.Errorf("send query: %w", err)
		}
		size, err := l.receive(fd, reply, uint16(n))
		switch {
		case err == nil && l.counts(reply[:size]):
			o.trips = append(o.trips, time.Since(started))
			o.answers++
		case err == nil || temporary(err):
			o.lost++
		default:
			return fmt.Errorf("receive reply: %w", err)
		}
	}
	return nil
}

// receive reads until the reply with that ID. An earlier one may come too late.
func (l hitLoad) receive(fd int, reply []byte, id uint16) (int, error) {
	for {
		size, err := unix.Read(fd, reply)
		if err != nil || size >= headerLen && binary.BigEndian.Uint16(reply) == id {
			return size, err
		}
	}
}

// counts reports whether a message counts as an answer.
func (l hitLoad) counts(msg []byte) bool { return !l.server.IsValid() || answered(msg) }

// batches sends as many queries at a time as the load says.
func (l hitLoad) batches(ctx context.Context, c *net.UDPConn, thread int, o *hitOutcome) error {
	pc := ipv4.NewPacketConn(c)
	out, in := make([]ipv4.Message, l.batch), make([]ipv4.Message, l.batch)
	for i := range out {
		out[i].Buffers, in[i].Buffers = [][]byte{nil}, [][]byte{make([]byte, 2048)}
	}
	for n := thread * 97; ctx.Err() == nil; n += l.batch {
		for i := range out {
			out[i].Buffers[0] = l.message(out[i].Buffers[0][:0], n+i)
		}
		started := time.Now()
		for sent := 0; sent < len(out); {
			k, err := pc.WriteBatch(out[sent:], 0)
			if err != nil {
				return fmt.Errorf("send queries: %w", err)
			}
			sent += k
		}
		if err := c.SetReadDeadline(started.Add(batchTimeout)); err != nil {
			return err
		}
		if err := l.receiveBatch(pc, in, o); err != nil {
			return err
		}
		o.trips = append(o.trips, time.Since(started))
	}
	return nil
}

// receiveBatch reads as many replies as there are messages in the batch.
func (l hitLoad) receiveBatch(pc *ipv4.PacketConn, in []ipv4.Message, o *hitOutcome) error {
	for missing := len(in); missing > 0; {
		k, err := pc.ReadBatch(in[:missing], 0)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			o.lost += missing
			return nil
		}
		if err != nil {
			return fmt.Errorf("receive replies: %w", err)
		}
		for _, m := range in[:k] {
			if l.counts(m.Buffers[0][:m.N]) {
				o.answers++
			} else {
				o.lost++
			}
		}
		missing -= k
	}
	return nil
}

// userHZ is the unit of /proc/stat, which is the same on every architecture that Linux supports
// with glibc.
const userHZ = 100

// busyTime returns the CPU time that the machine has spent since it was started, interrupts
// included, idle time and time of virtual machines on it excluded (proc(5), /proc/stat).
func busyTime() (time.Duration, error) {
	f, err := os.Open("/proc/stat")
	if err != nil {
		return 0, err
	}
	defer f.Close()
	line, err := bufio.NewReader(f).ReadString('\n')
	if err != nil {
		return 0, err
	}
	return parseBusy(line)
}

// parseBusy adds user, nice, system, irq and softirq of the first line of /proc/stat.
func parseBusy(line string) (time.Duration, error) {
	fields := strings.Fields(line)
	if len(fields) < 8 || fields[0] != "cpu" {
		return 0, fmt.Errorf("parse /proc/stat: %q", line)
	}
	ticks := 0
	for _, i := range []int{1, 2, 3, 6, 7} {
		n, err := strconv.Atoi(fields[i])
		if err != nil {
			return 0, fmt.Errorf("parse /proc/stat: %w", err)
		}
		ticks += n
	}
	return time.Duration(ticks) * time.Second / userHZ, nil
}
