// SPDX-License-Identifier: Apache-2.0

package forwarder

import (
	"errors"
	"net"
	"os"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// datagramPair returns two connected sockets. Unlike a UDP socket on loopback, the first has no
// space when the second does not read.
func datagramPair(t *testing.T) (from, to *net.UnixConn) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	var conns [2]*net.UnixConn
	for i, fd := range fds {
		file := os.NewFile(uintptr(fd), "datagram")
		c, err := net.FileConn(file)
		file.Close()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		conns[i] = c.(*net.UnixConn)
	}
	return conns[0], conns[1]
}

// fillBuffer sends with a batch of a reader until there is no space, which drops messages
// without waiting. It returns the number of messages that were sent.
func fillBuffer(t *testing.T, c *net.UnixConn) (sent int) {
	t.Helper()
	conn, err := c.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		b := new(batch)
		b.init(conn, true)
		dropped := 0
		b.refused = func(i int, err error) {
			if dropped++; !errors.Is(err, unix.EAGAIN) {
				t.Errorf("message %d: %v", i, err)
			}
		}
		for dropped == 0 {
			for i := range udpBatch {
				b.set(i, []byte{1}, nil, 0, nil)
			}
			b.send(udpBatch)
			sent += udpBatch - dropped
		}
	}()
	select {
	case <-done:
	case <-time.After(20 * time.Second):
		t.Fatal("a reader waits for space")
	}
	return sent
}

// outboxOf returns an outbox for a socket, and the number of replies that it drops.
func outboxOf(t *testing.T, c *net.UnixConn, setWriteDeadline func(time.Time) error) (*udpOutbox, func() *udpMiss, *atomic.Int64) {
	t.Helper()
	conn, err := c.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	dropped := new(atomic.Int64)
	f := &Forwarder{cfg: Config{Dropped: func(e Event) {
		if dropped.Add(1); e.Drop != DropSend || !errors.Is(e.Err, unix.EAGAIN) {
			t.Errorf("event %+v", e)
		}
	}}}
	o := new(udpOutbox)
	o.init(conn, setWriteDeadline)
	return o, func() *udpMiss {
		m := udpMisses.Get().(*udpMiss)
		m.f, m.reply = f, append(m.reply[:0], 2)
		return m
	}, dropped
}

// TestOutboxWaits: the outbox waits for space in the socket's buffer. Meanwhile the reader, which
// uses the same socket, does not wait.
func TestOutboxWaits(t *testing.T) {
	from, to := datagramPair(t)
	waits := make(chan time.Time, 1)
	o, miss, dropped := outboxOf(t, from, func(until time.Time) error {
		waits <- until
		return from.SetWriteDeadline(time.Now().Add(time.Hour))
	})
	n := fillBuffer(t, from)
	done := make(chan struct{})
	go func() {
		defer close(done)
		o.send(miss())
	}()
	if until := <-waits; time.Until(until) > maxSendWait {
		t.Errorf("it waits until %v", until)
	}
	if sent := fillBuffer(t, from); sent != 0 {
		t.Errorf("%d messages were sent: there was space", sent)
	}
	_ = to.SetReadDeadline(time.Now().Add(20 * time.Second))
	b := make([]byte, 8)
	for i := range n + 1 {
		if _, err := to.Read(b); err != nil {
			t.Fatalf("after %d of %d messages: %v", i, n+1, err)
		}
	}
	if <-done; b[0] != 2 || dropped.Load() != 0 {
		t.Errorf("the last message is %d, want the reply; %d were dropped", b[0], dropped.Load())
	}
}

// TestOutboxDrops: if the socket's buffer stays full, the outbox drops replies, and waits once
// for all that it writes together. Later ones are sent.
func TestOutboxDrops(t *testing.T) {
	from, to := datagramPair(t)
	waited := 0
	o, miss, dropped := outboxOf(t, from, func(time.Time) error {
		waited++
		return from.SetWriteDeadline(time.Unix(1, 0)) // it has passed
	})
	n := fillBuffer(t, from)
	var all []*udpMiss
	for range 3 * udpBatch {
		all = append(all, miss())
	}
	o.write(all)
	if waited != 1 || dropped.Load() != 3*udpBatch {
		t.Errorf("waited %d times, dropped %d replies: want once, and all %d", waited, dropped.Load(), 3*udpBatch)
	}
	_ = to.SetReadDeadline(time.Now().Add(20 * time.Second))
	b := make([]byte, 8)
	for range n {
		if _, err := to.Read(b); err != nil {
			t.Fatal(err)
		}
	}
	o.send(miss())
	if _, err := to.Read(b); err != nil || b[0] != 2 {
		t.Errorf("read %d, %v: want the reply", b[0], err)
	}
}
