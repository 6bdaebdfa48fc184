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

// resendAfter has the times at which a query is resent, counted from the first: early
// enough that a lost packet costs less than a second, and seldom enough that a client
// that resends too does not flood its nameserver.
var resendAfter = []time.Duration{800 * time.Millisecond, 1600 * time.Millisecond}

// maxStrays limits the datagrams that are ignored because they are not the reply to the
// query. The socket is new and connected, so there should be none, and each may be a
// guess at the 16-bit ID.
const maxStrays = 64

// udpBuffers are buffers for the longest datagram. One is used only while a datagram is
// read, not while waiting for it.
var udpBuffers = sync.Pool{New: func() any { return new([wire.MaxMessage]byte) }}

// overUDP sends the query from its own socket. The socket is connected, so that the
// kernel drops datagrams from other addresses and returns ICMP errors. The kernel chooses
// the port at random from 28,000 (see net.ipv4.ip_local_port_range).
func (r *request) overUDP(ctx context.Context) ([]byte, error) {
	conn, done, err := r.dial(ctx)
	if err != nil {
		return nil, err
	}
	defer done()
	in := receiver{query: r.message()}
	if in.raw, err = conn.(*net.UDPConn).SyscallConn(); err != nil {
		return nil, err
	}
	if err := setDeadline(ctx, conn.SetWriteDeadline, r.until); err != nil {
		return nil, err
	}
	for _, until := range r.attempts() {
		if _, err := conn.Write(in.query); err != nil {
			return nil, err
		}
		if err := setDeadline(ctx, conn.SetReadDeadline, until); err != nil {
			return nil, err
		}
		reply, err := in.wait()
		if until.Before(r.until) && errors.Is(err, os.ErrDeadlineExceeded) && ctx.Err() == nil {
			continue
		}
		if errors.Is(err, errStrays) {
			r.warnForged()
		}
		return reply, err
	}
	return nil, os.ErrDeadlineExceeded // not reached: the last attempt ends at r.until
}

// attempts returns the deadline of each attempt, after which the query is resent. An
// UPDATE is sent only once: if its reply was lost, its prerequisites may no longer hold
// (RFC 2136 §2.4), and the client would get an error although the update succeeded.
func (r *request) attempts() []time.Time {
	var times []time.Time
	if opcode(r.message()) != wire.OpcodeUpdate {
		for _, after := range r.c.resend {
			if at := r.start.Add(after); at.Before(r.until) {
				times = append(times, at)
			}
		}
	}
	return append(times, r.until)
}

// receiver reads datagrams from a socket until the reply to query arrives.
type receiver struct {
	raw    syscall.RawConn
	query  []byte
	strays int
}

// wait returns the reply to the query.
func (in *receiver) wait() ([]byte, error) {
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

// next reads one datagram. It returns nil without an error if that is not the reply.
func (in *receiver) next() (reply []byte, err error) {
	var failed error
	err = in.raw.Read(func(fd uintptr) bool {
		buf := udpBuffers.Get().(*[wire.MaxMessage]byte)
		defer udpBuffers.Put(buf)
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
