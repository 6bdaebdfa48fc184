// SPDX-License-Identifier: Apache-2.0

package plain

import (
	"bytes"
	"context"
	"errors"
	"net"
	"os"
	"sync"
	"syscall"
	"time"

	"sotto/forwarder/wire"
)

// resendAfter is when a query is sent again, counted from the first time: often
// enough for one lost packet to cost less than a second, and seldom enough for a
// client that sends again itself not to have its nameserver flooded.
var resendAfter = []time.Duration{800 * time.Millisecond, 1600 * time.Millisecond}

// maxStrays is how many datagrams that are no reply to the query are passed over.
// The socket is new and takes nothing from other addresses, so there should be
// none; and each is a guess at an ID of 16 bits.
const maxStrays = 64

// datagrams are buffers for the longest there is. One is held while a datagram
// is read, not while it is waited for.
var datagrams = sync.Pool{New: func() any { return new([wire.MaxMessage]byte) }}

// overUDP sends the query from a socket of its own. The socket is connected, so
// that the kernel passes on nothing that comes from elsewhere, and ICMP's word
// that there is nobody; its port is one that the kernel drew at random (28,000 of
// them, unless net.ipv4.ip_local_port_range says otherwise).
func (a *asking) overUDP(ctx context.Context) ([]byte, error) {
	conn, done, err := a.dial(ctx)
	if err != nil {
		return nil, err
	}
	defer done()
	in := incoming{query: a.message()}
	if in.raw, err = conn.(*net.UDPConn).SyscallConn(); err != nil {
		return nil, err
	}
	if err := limit(ctx, conn.SetWriteDeadline, a.until); err != nil {
		return nil, err
	}
	for _, until := range a.patience() {
		if _, err := conn.Write(in.query); err != nil {
			return nil, err
		}
		if err := limit(ctx, conn.SetReadDeadline, until); err != nil {
			return nil, err
		}
		reply, err := in.wait()
		if until.Before(a.until) && errors.Is(err, os.ErrDeadlineExceeded) && ctx.Err() == nil {
			continue
		}
		if errors.Is(err, errStrays) {
			a.warnForged()
		}
		return reply, err
	}
	return nil, os.ErrDeadlineExceeded // not reached: the last time is a.until
}

// patience is until when a reply is waited for after each time that the query is
// sent. An UPDATE is sent once: had only its reply been lost, its prerequisites
// might not hold any more (RFC 2136 §2.4), and its client would hear of a failure.
func (a *asking) patience() []time.Time {
	var times []time.Time
	if opcode(a.message()) != wire.OpcodeUpdate {
		for _, after := range a.c.resend {
			if at := a.began.Add(after); at.Before(a.until) {
				times = append(times, at)
			}
		}
	}
	return append(times, a.until)
}

// incoming is what arrives at one socket.
type incoming struct {
	raw    syscall.RawConn
	query  []byte
	strays int
}

// wait returns the reply to the query.
func (in *incoming) wait() ([]byte, error) {
	for {
		reply, err := in.next()
		if reply != nil || err != nil {
			return reply, err
		}
		if in.strays++; in.strays > maxStrays {
			return nil, errStrays
		}
	}
}

// next reads one datagram; nil and no error: it is not the reply.
func (in *incoming) next() (reply []byte, err error) {
	var failed error
	err = in.raw.Read(func(fd uintptr) bool {
		buf := datagrams.Get().(*[wire.MaxMessage]byte)
		defer datagrams.Put(buf)
		n, err := syscall.Read(int(fd), buf[:]) // does not block, so no EINTR
		switch {
		case errors.Is(err, syscall.EAGAIN):
			return false
		case err != nil:
			failed = os.NewSyscallError("read", err)
		case matches(in.query, buf[:n]):
			reply = bytes.Clone(buf[:n])
		}
		return true
	})
	return reply, errors.Join(err, failed)
}
