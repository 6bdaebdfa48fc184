// SPDX-License-Identifier: Apache-2.0

package capture

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"sotto/internal/netns"
)

const (
	// receiveBuffer holds the packets that arrive between two reads on a busy machine.
	receiveBuffer = 16 << 20

	// maxBytes limits what one capture stores. Stop returns an error if it was exceeded.
	maxBytes = 128 << 20
)

// Capture is a running capture. Its methods may be called concurrently.
type Capture struct {
	file *os.File
	done chan struct{} // closed when the reader has returned

	mu      sync.Mutex
	packets []Packet
	bytes   int
	err     error
	stopped bool
}

// Start captures on one interface of a namespace, or on all if ifname is "". It
// records both directions; on a loopback interface each packet appears twice.
func Start(ns *netns.NS, ifname string) (*Capture, error) {
	var fd int
	err := ns.Do(func() (err error) {
		fd, err = open(ifname)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("capture on %q: %w", ifname, err)
	}
	c := &Capture{file: os.NewFile(uintptr(fd), "packet socket"), done: make(chan struct{})}
	go c.read()
	return c, nil
}

// open returns a packet socket that never receives from other interfaces: it is
// created with protocol 0, which receives nothing, and bind sets protocol and
// interface together.
func open(ifname string) (int, error) {
	index := 0
	if ifname != "" {
		ifi, err := net.InterfaceByName(ifname)
		if err != nil {
			return -1, err
		}
		index = ifi.Index
	}
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return -1, fmt.Errorf("create packet socket: %w", err)
	}
	// Best effort: without CAP_NET_ADMIN net.core.rmem_max applies.
	_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, receiveBuffer)
	all := uint16(unix.ETH_P_ALL)
	addr := &unix.SockaddrLinklayer{Protocol: all>>8 | all<<8, Ifindex: index} // network byte order
	if err := unix.Bind(fd, addr); err != nil {
		return -1, errors.Join(fmt.Errorf("bind packet socket: %w", err), unix.Close(fd))
	}
	return fd, nil
}

// read records packets until Stop.
func (c *Capture) read() {
	defer close(c.done)
	buf := make([]byte, 1<<16+64)
	for {
		n, err := c.file.Read(buf)
		if err != nil {
			if !errors.Is(err, os.ErrDeadlineExceeded) {
				c.fail(fmt.Errorf("read packet: %w", err))
			}
			return
		}
		c.add(buf[:n])
	}
}

// add records one packet.
func (c *Capture) add(data []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.bytes += len(data); c.bytes > maxBytes {
		c.err = fmt.Errorf("capture packets: more than %d MiB", maxBytes>>20)
		return
	}
	if p, ok := parse(data); ok {
		p.Time = time.Now()
		c.packets = append(c.packets, p)
	}
}

func (c *Capture) fail(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.err = errors.Join(c.err, err)
}

// Packets returns the packets recorded so far.
func (c *Capture) Packets() []Packet {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.packets[:len(c.packets):len(c.packets)]
}

// Wait waits until enough reports true for the packets recorded so far, or ctx is done.
func (c *Capture) Wait(ctx context.Context, enough func([]Packet) bool) error {
	for !enough(c.Packets()) {
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for packets: %w", ctx.Err())
		case <-time.After(10 * time.Millisecond):
		}
	}
	return nil
}

// Stop ends the capture and returns all packets. An error means that the capture is
// incomplete. Calling Stop again returns the same result.
func (c *Capture) Stop() ([]Packet, error) {
	c.mu.Lock()
	first := !c.stopped
	c.stopped = true
	c.mu.Unlock()
	if first {
		if err := c.file.SetReadDeadline(time.Now()); err != nil {
			c.fail(fmt.Errorf("stop capture: %w", err))
			c.fail(c.file.Close()) // also wakes the reader
		} else {
			<-c.done
			c.drain()
			c.fail(c.file.Close())
		}
	}
	<-c.done
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.packets, c.err
}

// drain reads the packets still queued and checks that the kernel dropped none.
func (c *Capture) drain() {
	raw, err := c.file.SyscallConn()
	if err != nil {
		c.fail(fmt.Errorf("stop capture: %w", err))
		return
	}
	buf := make([]byte, 1<<16+64)
	err = raw.Control(func(fd uintptr) {
		for {
			n, _, err := unix.Recvfrom(int(fd), buf, unix.MSG_DONTWAIT)
			if errors.Is(err, unix.EINTR) {
				continue
			}
			if err != nil {
				break // EAGAIN: the queue is empty
			}
			c.add(buf[:n])
		}
		stats, err := unix.GetsockoptTpacketStats(int(fd), unix.SOL_PACKET, unix.PACKET_STATISTICS)
		if err != nil {
			c.fail(fmt.Errorf("read packet socket statistics: %w", err))
		} else if stats.Drops > 0 {
			c.fail(fmt.Errorf("capture packets: the kernel dropped %d", stats.Drops))
		}
	})
	if err != nil {
		c.fail(fmt.Errorf("stop capture: %w", err))
	}
}
