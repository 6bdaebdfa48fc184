// SPDX-License-Identifier: Apache-2.0

package forwarder

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"time"
)

// handoverTime is how long a listener waits for the replies that it owes before it
// gives a connection away. Queries take 4 s at most, so it is for zone transfers, which
// cannot change hands, and for clients that read slowly. The other process answers all
// else by then, and only the old one's end is put off.
const handoverTime = 30 * time.Second

// Handover, as the cause of the end of [Forwarder.Serve]'s context, says that another
// process has the same sockets and answers on them by now. Serve then reads no more,
// pays what it owes, and gives the connections of its clients away, where else it would
// close them. So nothing is lost, and nobody notices.
type Handover struct {
	// Give takes a connection over, with the bytes that were read from it and belong to
	// queries that nobody has looked at yet. It may be called from several goroutines.
	// After an error the connection is closed.
	Give func(c *net.TCPConn, read []byte) error
}

func (h *Handover) Error() string { return "another process takes over" }

// handoverOf is the handover that ended ctx, if one did.
func handoverOf(ctx context.Context) *Handover {
	var h *Handover
	if ctx.Err() != nil && errors.As(context.Cause(ctx), &h) {
		return h
	}
	return nil
}

// patience is how long replies are waited for once ctx has ended.
func patience(ctx context.Context) time.Duration {
	if handoverOf(ctx) != nil {
		return handoverTime
	}
	return drainTime
}

// Descriptors returns the sockets' descriptors. They stay this process's, and the
// sockets must not be closed while they are in use.
func (s *Sockets) Descriptors() (udp, tcp []int, err error) {
	for _, u := range s.udp {
		fd, err := descriptor(u)
		if err != nil {
			return nil, nil, err
		}
		udp = append(udp, fd)
	}
	for _, l := range s.tcp {
		fd, err := descriptor(l)
		if err != nil {
			return nil, nil, err
		}
		tcp = append(tcp, fd)
	}
	return udp, tcp, nil
}

func descriptor(c syscall.Conn) (fd int, err error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return 0, err
	}
	return fd, raw.Control(func(n uintptr) { fd = int(n) })
}

// Adopt makes Sockets of those that another process opened with [Listen]. It takes the
// files over, whatever it returns.
func Adopt(udp, tcp []*os.File) (_ *Sockets, err error) {
	s := &Sockets{}
	defer func() {
		for _, f := range append(udp, tcp...) {
			err = errors.Join(err, f.Close())
		}
		if err != nil {
			err = errors.Join(fmt.Errorf("adopt sockets: %w", err), s.Close())
		}
	}()
	for _, f := range udp {
		c, err := net.FilePacketConn(f)
		if err != nil {
			return nil, err
		}
		u, ok := c.(*net.UDPConn)
		if !ok {
			return nil, errors.Join(fmt.Errorf("%s is no UDP socket", c.LocalAddr()), c.Close())
		}
		s.udp = append(s.udp, u)
	}
	for _, f := range tcp {
		c, err := net.FileListener(f)
		if err != nil {
			return nil, err
		}
		l, ok := c.(*net.TCPListener)
		if !ok {
			return nil, errors.Join(fmt.Errorf("%s is no TCP listener", c.Addr()), c.Close())
		}
		s.tcp = append(s.tcp, l)
	}
	if len(s.udp) == 0 {
		return nil, errors.New("there are none")
	}
	return s, nil
}

// ServeConn answers one connection that another process gave away, with what was read
// of it, until its client is done or ctx ends: then it waits for what is owed as long as
// [Forwarder.Serve] does. It takes the connection over.
func (f *Forwarder) ServeConn(ctx context.Context, c *net.TCPConn, read []byte) {
	t := newTCPConn(f, c)
	t.in = bufio.NewReaderSize(io.MultiReader(bytes.NewReader(read), c), readBuffer)
	var serving sync.WaitGroup
	ended := make(chan struct{})
	serving.Go(func() { defer close(ended); t.serve(ctx) })
	select {
	case <-ended:
	case <-ctx.Done():
		waitAtMost(&serving, patience(ctx))
	}
}

// give hands the connection to another process, if that is what ended ctx and it is in
// order; frame is what was read of a message that is not complete.
func (t *tcpConn) give(ctx context.Context, frame []byte) {
	h := handoverOf(ctx)
	t.mu.Lock()
	broken := t.broken
	t.mu.Unlock()
	if h == nil || broken {
		return
	}
	behind, _ := t.in.Peek(t.in.Buffered()) // of what is there none fails
	if err := h.Give(t.c, append(frame, behind...)); err != nil {
		t.f.cfg.Log.Warn("a client's connection could not be handed over: it has to connect again", "client", t.client, "err", err)
	}
}
