// SPDX-License-Identifier: Apache-2.0

package pathtest

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// queryTime limits the time for an answer. The kernel repeats the SYN of a connection
	// after one second and then after two.
	queryTime = 3 * time.Second

	// resendInterval is the pause between repetitions of a datagram.
	resendInterval = time.Second
)

// Destinations of the queries, reserved for documentation (RFC 5737, RFC 3849).
var (
	destination4 = netip.MustParseAddr("192.0.2.53")
	destination6 = netip.MustParseAddr("2001:db8::53")
)

const (
	headerLen = 12
	maxReply  = 512
	flagQR    = 0x80
)

// newQuery returns a header without a question. Its opcode, 15, is not assigned.
func newQuery() []byte {
	q := make([]byte, headerLen)
	_, _ = rand.Read(q[:2]) // never fails
	q[2] = 15 << 3
	return q
}

// answers reports whether a message is a reply to the query q.
func answers(msg, q []byte) bool {
	return len(msg) >= headerLen && msg[0] == q[0] && msg[1] == q[1] && msg[2]&flagQR != 0
}

// connect opens a socket in the calling thread's network namespace and connects it, without
// waiting for a TCP handshake. The process must be in a sealed cgroup. The connection can then
// be used by any thread: a thread for each namespace would count as tasks of the cgroup.
func (p probe) connect(port uint16) (net.Conn, error) {
	family, to := unix.AF_INET, unix.Sockaddr(&unix.SockaddrInet4{Port: int(port), Addr: destination4.As4()})
	if p.v6 {
		family, to = unix.AF_INET6, &unix.SockaddrInet6{Port: int(port), Addr: destination6.As16()}
	}
	kind := unix.SOCK_DGRAM
	if p.tcp {
		kind = unix.SOCK_STREAM
	}
	fd, err := unix.Socket(family, kind|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	f := os.NewFile(uintptr(fd), p.String())
	defer f.Close()
	if err := unix.Connect(fd, to); err != nil && !errors.Is(err, unix.EINPROGRESS) {
		return nil, os.NewSyscallError("connect", err)
	}
	return net.FileConn(f)
}

// exchange sends a query by a connection of connect and waits for the reply.
func (p probe) exchange(ctx context.Context, c net.Conn) error {
	ctx, cancel := context.WithTimeout(ctx, queryTime)
	defer cancel()
	defer context.AfterFunc(ctx, func() { _ = c.SetDeadline(time.Unix(1, 0)) })()
	exchange := exchangeUDP
	if p.tcp {
		exchange = exchangeTCP
	}
	err := exchange(ctx, c)
	if err != nil && errors.Is(ctx.Err(), context.Canceled) {
		return context.Canceled
	}
	return err
}

// Ask sends a query like those of the test by a connection to the listener, and waits for the
// reply, at most for some seconds.
func Ask(ctx context.Context, c net.Conn, tcp bool) error { return probe{tcp: tcp}.exchange(ctx, c) }

func exchangeUDP(ctx context.Context, c net.Conn) error {
	q := newQuery()
	for {
		if _, err := c.Write(q); err != nil {
			return fmt.Errorf("send: %w", plain(err))
		}
		err := readUDP(c, q)
		if err == nil || !errors.Is(err, os.ErrDeadlineExceeded) || ctx.Err() != nil {
			return plain(err)
		}
	}
}

// readUDP waits until the datagram has to be repeated.
func readUDP(c net.Conn, q []byte) error {
	if err := c.SetReadDeadline(time.Now().Add(resendInterval)); err != nil {
		return err
	}
	buf := make([]byte, maxReply)
	for {
		n, err := c.Read(buf)
		if err != nil || answers(buf[:n], q) {
			return err
		}
	}
}

func exchangeTCP(_ context.Context, c net.Conn) error {
	q := newQuery()
	// It waits for the handshake.
	if _, err := c.Write(append(binary.BigEndian.AppendUint16(nil, headerLen), q...)); err != nil {
		return fmt.Errorf("connect: %w", plain(err))
	}
	reply := make([]byte, 2+headerLen)
	if _, err := io.ReadFull(c, reply); err != nil {
		return plain(err)
	}
	if !answers(reply[2:], q) {
		return errors.New("not a reply to the query")
	}
	return nil
}

// errNoAnswer is what a timeout means.
var errNoAnswer = fmt.Errorf("no answer within %s: %w", queryTime, os.ErrDeadlineExceeded)

// plain returns the cause of an error of package net, whose text names addresses and ports of
// the socket.
func plain(err error) error {
	var op *net.OpError
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		return errNoAnswer
	case errors.As(err, &op):
		return op.Err
	}
	return err
}

// hasAddress reports whether the calling thread's network namespace has an address from which
// nameservers outside of the machine can be queried. link is Sotto's.
func hasAddress(v6 bool, link string) (bool, error) {
	links, err := net.Interfaces()
	if err != nil {
		return false, err
	}
	for _, l := range links {
		if l.Name == link {
			continue
		}
		addrs, err := l.Addrs()
		if err != nil {
			continue // the link was removed
		}
		for _, a := range addrs {
			if n, ok := a.(*net.IPNet); ok && n.IP.IsGlobalUnicast() && (n.IP.To4() == nil) == v6 {
				return true, nil
			}
		}
	}
	return false, nil
}
