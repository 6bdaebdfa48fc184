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

// send sends a query from the calling thread's network namespace and waits for the reply. The
// process must be in a sealed cgroup.
func (p probe) send(ctx context.Context, cfg Config) error {
	if has, err := hasAddress(p.v6, cfg.Link); err == nil && !has {
		return errNoAddress
	}
	ctx, cancel := context.WithTimeout(ctx, queryTime)
	defer cancel()
	dst := netip.AddrPortFrom(destination4, cfg.Port)
	if p.v6 {
		dst = netip.AddrPortFrom(destination6, cfg.Port)
	}
	exchange := exchangeUDP
	if p.tcp {
		exchange = exchangeTCP
	}
	err := exchange(ctx, dst)
	if errors.Is(ctx.Err(), context.Canceled) {
		return context.Canceled
	}
	return err
}

func exchangeUDP(ctx context.Context, dst netip.AddrPort) error {
	var d net.Dialer
	c, err := d.DialContext(ctx, "udp", dst.String())
	if err != nil {
		return err
	}
	defer c.Close()
	defer context.AfterFunc(ctx, func() { _ = c.SetDeadline(time.Unix(1, 0)) })()
	q := newQuery()
	for {
		if _, err := c.Write(q); err != nil {
			return fmt.Errorf("send: %w", err)
		}
		err := readUDP(c, q)
		if err == nil || !errors.Is(err, os.ErrDeadlineExceeded) || ctx.Err() != nil {
			return err
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

func exchangeTCP(ctx context.Context, dst netip.AddrPort) error {
	var d net.Dialer
	c, err := d.DialContext(ctx, "tcp", dst.String())
	if err != nil {
		return err
	}
	defer c.Close()
	defer context.AfterFunc(ctx, func() { _ = c.SetDeadline(time.Unix(1, 0)) })()
	q := newQuery()
	if _, err := c.Write(append(binary.BigEndian.AppendUint16(nil, headerLen), q...)); err != nil {
		return fmt.Errorf("send: %w", err)
	}
	reply := make([]byte, 2+headerLen)
	if _, err := io.ReadFull(c, reply); err != nil {
		return err
	}
	if !answers(reply[2:], q) {
		return errors.New("not a reply to the query")
	}
	return nil
}
