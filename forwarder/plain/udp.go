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

// maxStrays limits the datagrams that are ignored on a new socket because they are not the
// reply to the query. There should be none, and each may be a guess at the 16-bit ID. On a
// reused socket, whose port may be known, none is ignored.
const maxStrays = 64

// udpBuffers are buffers for the longest datagram. One is used only while a datagram is
// read, not while waiting for it.
var udpBuffers = sync.Pool{New: func() any { return new([wire.MaxMessage]byte) }}

// overUDP sends the query from a socket of the pool. If there is none, or anything but the
// reply arrives there, or nothing until the query has to be resent, it sends it from a new one.
func (r *request) overUDP(ctx context.Context) ([]byte, error) {
	if s := r.reusable(); s != nil {
		reply, err := r.overSocket(ctx, s, true)
		if err == nil || ctx.Err() != nil || !time.Now().Before(r.until) {
			return reply, err
		}
		r.setRandomID()
	}
	s, err := r.open(ctx)
	if err != nil {
		return nil, err
	}
	reply, err := r.overSocket(ctx, s, false)
	if errors.Is(err, errStrays) {
		r.warnForged()
	}
	return reply, err
}

// reusable returns a socket of the pool, or nil. The query may have to be repeated on a new
// socket, which an UPDATE must not be (see nextAttempt).
func (r *request) reusable() *socket {
	if !r.c.reuse || opcode(r.message()) == wire.OpcodeUpdate {
		return nil
	}
	return r.c.pool.take(poolKey{r.to, r.owner})
}

// open opens a new socket. It is connected, so that the kernel drops datagrams from other
// addresses and returns ICMP errors. The kernel chooses the port at random from 28,000 (see
// net.ipv4.ip_local_port_range).
func (r *request) open(ctx context.Context) (*socket, error) {
	s := &socket{key: poolKey{r.to, r.owner}, epoch: r.c.pool.current(), expires: time.Now().Add(r.c.life)}
	if r.c.reuse {
		s.uses = r.c.uses()
	}
	conn, err := r.dial(ctx)
	if err != nil {
		return nil, err
	}
	s.conn = conn.(*net.UDPConn)
	if s.raw, err = s.conn.SyscallConn(); err != nil {
		s.close()
		return nil, err
	}
	return s, nil
}

// overSocket sends the query from s, which may have been used before, and returns the reply.
// Then it returns s to the pool if all was as expected, or closes it. A new socket resends the
// query, and then is closed because another reply may follow.
func (r *request) overSocket(ctx context.Context, s *socket, used bool) (reply []byte, err error) {
	in := receiver{raw: s.raw, query: r.message(), maxStrays: maxStrays}
	if used {
		in.maxStrays = 0
	}
	sent := 0
	stop := failWith(ctx, s.conn)
	defer func() {
		s.uses--
		if stop() && err == nil && sent == 1 && in.strays == 0 {
			r.c.pool.put(s)
		} else {
			s.close()
		}
	}()
	if err := setDeadline(ctx, s.conn.SetWriteDeadline, r.until); err != nil {
		return nil, err
	}
	for until := r.nextAttempt(time.Now()); ; until = r.nextAttempt(until) {
		if _, err := s.conn.Write(in.query); err != nil {
			return nil, err
		}
		sent++
		if err := setDeadline(ctx, s.conn.SetReadDeadline, until); err != nil {
			return nil, err
		}
		reply, err := in.wait()
		if !used && until.Before(r.until) && errors.Is(err, os.ErrDeadlineExceeded) && ctx.Err() == nil {
			continue
		}
		return reply, err
	}
}

// nextAttempt returns when the query is resent, or given up, after the time after. An UPDATE is
// sent only once: if its reply was lost, its prerequisites may no longer hold (RFC 2136 §2.4),
// and the client would get an error although the update succeeded.
func (r *request) nextAttempt(after time.Time) time.Time {
	if opcode(r.message()) != wire.OpcodeUpdate {
		for _, d := range r.c.resend {
			if at := r.start.Add(d); at.After(after) && at.Before(r.until) {
				return at
			}
		}
	}
	return r.until
}

// receiver reads datagrams from a socket until the reply to query arrives.
type receiver struct {
	raw               syscall.RawConn
	query             []byte
	strays, maxStrays int
}

// wait returns the reply to the query.
func (in *receiver) wait() ([]byte, error) {
	for {
		reply, err := in.next()
		if reply != nil || err != nil {
			return reply, err
		}
		if in.strays++; in.strays > in.maxStrays {
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
