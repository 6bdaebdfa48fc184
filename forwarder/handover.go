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
	"net/netip"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// handoverTime is how long a listener waits for pending replies before it hands a
// connection over. It is longer than any query takes (30 s, the maximum of the setting
// timeout). It also limits zone transfers, which cannot be handed over, and clients that
// read slowly. The successor already answers everything else, so only the predecessor's
// exit is delayed.
const handoverTime = 35 * time.Second

// Withdrawal is the cause with which the context of [Forwarder.Serve] is cancelled when
// another process has the same sockets and continues to answer on them. Serve then stops
// reading, sends the pending replies, and closes the clients' connections.
type Withdrawal struct {
	// Wait is how long Serve waits for pending replies. It should be longer than any query
	// takes: only the exit of the process is delayed.
	Wait time.Duration
}

func (w *Withdrawal) Error() string { return "another process continues to answer" }

// Handover is the cause with which the context of [Forwarder.Serve] is cancelled when
// another process, the successor, has the same sockets and answers on them. Serve then
// stops reading, sends the pending replies, and hands the clients' connections over
// instead of closing them. No query is lost.
type Handover struct {
	// SendConn sends a connection to the successor, with the bytes that were read from
	// it and belong to queries that were not handled. It may be called concurrently.
	// The connection is closed afterwards.
	SendConn func(c *net.TCPConn, read []byte) error
}

func (h *Handover) Error() string { return "another process takes over" }

// handoverCause returns the handover that ctx was cancelled with, or nil.
func handoverCause(ctx context.Context) *Handover {
	var h *Handover
	if ctx.Err() != nil && errors.As(context.Cause(ctx), &h) {
		return h
	}
	return nil
}

// drainTimeout returns how long to wait for pending replies after ctx was cancelled.
func drainTimeout(ctx context.Context) time.Duration {
	var w *Withdrawal
	switch {
	case handoverCause(ctx) != nil:
		return handoverTime
	case errors.As(context.Cause(ctx), &w):
		return w.Wait
	default:
		return drainTime
	}
}

// Descriptors returns the sockets' descriptors. The Sockets still own them, and must
// not be closed while the descriptors are in use.
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

// Adopt returns Sockets for files of sockets that another process opened, usually with
// [Listen]. It sets their buffer sizes: another version may have set others, and a service manager
// sets the same for UDP and TCP. It closes the files, also on an error.
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
			return nil, errors.Join(fmt.Errorf("%s is not a UDP socket", c.LocalAddr()), c.Close())
		}
		s.udp = append(s.udp, u)
		if err := adoptBuffers("udp", u); err != nil {
			return nil, err
		}
	}
	for _, f := range tcp {
		c, err := net.FileListener(f)
		if err != nil {
			return nil, err
		}
		l, ok := c.(*net.TCPListener)
		if !ok {
			return nil, errors.Join(fmt.Errorf("%s is not a TCP listener", c.Addr()), c.Close())
		}
		s.tcp = append(s.tcp, l)
		if err := adoptBuffers("tcp", l); err != nil {
			return nil, err
		}
	}
	if len(s.udp) == 0 {
		return nil, errors.New("no UDP socket was passed")
	}
	return s, nil
}

func adoptBuffers(network string, c syscall.Conn) error {
	raw, err := c.SyscallConn()
	if err == nil {
		err = setBuffers(network, raw)
	}
	if err != nil {
		return fmt.Errorf("set the sizes of buffers: %w", err)
	}
	return nil
}

// Inherit returns Sockets for files of sockets that a service manager opened: UDP sockets and
// TCP listeners of any addresses. It closes the files, also on an error.
func Inherit(files []*os.File) (*Sockets, error) {
	var udp, tcp []*os.File
	for _, f := range files {
		kind, err := unix.GetsockoptInt(int(f.Fd()), unix.SOL_SOCKET, unix.SO_TYPE)
		switch {
		case err == nil && kind == unix.SOCK_DGRAM:
			udp = append(udp, f)
		default: // Adopt reports what is no TCP listener
			tcp = append(tcp, f)
		}
	}
	s, err := Adopt(udp, tcp)
	if err != nil {
		return nil, err
	}
	if len(s.tcp) == 0 {
		return nil, errors.Join(errors.New("adopt sockets: no TCP socket was passed: answers that do not fit into a datagram need one (ListenStream=)"), s.Close())
	}
	for _, u := range s.udp {
		if _, ok := boundTo(u); ok {
			continue
		}
		network := "6"
		if u.LocalAddr().(*net.UDPAddr).AddrPort().Addr().Is4() {
			network = "4"
		}
		if err := enablePacketInfo(u, network); err != nil {
			return nil, errors.Join(fmt.Errorf("adopt sockets: enable packet info: %w", err), s.Close())
		}
	}
	return s, nil
}

// Addrs returns the addresses of the UDP sockets.
func (s *Sockets) Addrs() (addrs []netip.AddrPort) {
	for _, u := range s.udp {
		addrs = append(addrs, u.LocalAddr().(*net.UDPAddr).AddrPort())
	}
	return addrs
}

// ServeConn answers queries on a connection that another process handed over, starting
// with the bytes that process had read. It returns when the client is done. When ctx
// is cancelled, it waits for pending replies as long as [Forwarder.Serve] does.
// ServeConn closes the connection.
func (f *Forwarder) ServeConn(ctx context.Context, c *net.TCPConn, read []byte) {
	t := newTCPConn(f, c)
	t.in = bufio.NewReaderSize(io.MultiReader(bytes.NewReader(read), c), readBuffer)
	var serving sync.WaitGroup
	done := make(chan struct{})
	serving.Go(func() { defer close(done); t.serve(ctx) })
	select {
	case <-done:
	case <-ctx.Done():
		waitTimeout(&serving, drainTimeout(ctx))
	}
}

// handOver sends the connection to the successor, if ctx was cancelled for a handover
// and the connection was not reset. frame is the incomplete message that was read.
func (t *tcpConn) handOver(ctx context.Context, frame []byte) {
	h := handoverCause(ctx)
	t.mu.Lock()
	reset := t.reset != NotDropped
	t.mu.Unlock()
	if h == nil || reset {
		return
	}
	buffered, _ := t.in.Peek(t.in.Buffered()) // cannot fail for buffered bytes
	if err := h.SendConn(t.c, append(frame, buffered...)); err != nil {
		t.f.cfg.Log.Warn("client connection closed: handover failed, the client has to reconnect", "client", t.client, "err", err)
	}
}
