// SPDX-License-Identifier: Apache-2.0

package forwarder

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"syscall"

	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
	"golang.org/x/sys/unix"
)

const (
	// udpReceiveBuffer holds a burst of about ten thousand small queries until the
	// reader goroutine is scheduled.
	udpReceiveBuffer = 4 << 20

	// udpSendBuffer holds as many replies. The default is full with about 250 packets that wait
	// for the hardware address of a neighbour that does not exist.
	udpSendBuffer = 4 << 20

	// tcpBuffer limits the kernel's buffers of a connection, in each direction. (The
	// kernel doubles the number to account for its overhead.) By default they grow to
	// several megabytes, which a client that does not read could use for each of its
	// connections. Clients are local, so they need little data in flight.
	tcpBuffer = 64 << 10

	// maxPort0Tries limits the search for a port that is free for UDP and TCP.
	maxPort0Tries = 16
)

// Sockets are the bound sockets that a [Forwarder] serves. They remain in the network
// namespace that they were opened in.
type Sockets struct {
	udp []*net.UDPConn
	tcp []*net.TCPListener
}

// Listen opens n UDP sockets and n TCP listeners on addr, which share its port with
// SO_REUSEPORT, in the network namespace of the calling thread. It fails if a socket of
// another process uses the port, even one that shares it: the two would get a part of the
// queries each. The unspecified IPv6 address means both families, with separate sockets for
// each; if the kernel has no IPv6, it means IPv4 only. For port 0 a port is chosen that no
// other socket uses, with either protocol.
//
// The caller closes the Sockets, unless it passes them to [Forwarder.Serve].
func Listen(ctx context.Context, addr netip.AddrPort, n int) (*Sockets, error) {
	return listen(ctx, addr, n, false)
}

// ListenShared is like [Listen], but permits other sockets that share the port, of this
// process or of another one of its user.
func ListenShared(ctx context.Context, addr netip.AddrPort, n int) (*Sockets, error) {
	return listen(ctx, addr, n, true)
}

func listen(ctx context.Context, addr netip.AddrPort, n int, shared bool) (*Sockets, error) {
	if !addr.IsValid() || n < 1 {
		return nil, fmt.Errorf("listen on %s with %d sockets: want an address, a port and at least one", addr, n)
	}
	hosts := []netip.Addr{addr.Addr().Unmap()}
	if addr.Addr() == netip.IPv6Unspecified() {
		hosts = []netip.Addr{netip.IPv4Unspecified(), netip.IPv6Unspecified()}
	}
	var err error
	for range maxPort0Tries {
		var s *Sockets
		if s, err = listenAll(ctx, hosts, addr.Port(), n, shared && addr.Port() != 0); err == nil {
			return s, nil
		}
		if addr.Port() != 0 || !errors.Is(err, unix.EADDRINUSE) {
			break
		}
	}
	return nil, err
}

// listenAll opens n sockets per host and protocol on one port. On an error it closes
// those it opened.
func listenAll(ctx context.Context, hosts []netip.Addr, port uint16, n int, shared bool) (_ *Sockets, err error) {
	s := &Sockets{}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.Close())
		}
	}()
	for i, host := range hosts {
		for k := range n {
			at := netip.AddrPortFrom(host, port)
			if err := s.open(ctx, at, k == 0 && !shared); err != nil {
				if i > 0 && errors.Is(err, unix.EAFNOSUPPORT) {
					break
				}
				return s, err
			}
			port = s.Addr().Port()
		}
	}
	return s, nil
}

// open adds one UDP socket and one TCP listener at addr. With alone, it fails if another
// socket uses the port, and shares it only then. With SO_REUSEPORT from the start it could
// even get, for port 0, a port that another process of this user shares (udp_lib_lport_inuse
// in net/ipv4/udp.c).
func (s *Sockets) open(ctx context.Context, addr netip.AddrPort, alone bool) error {
	network := "4"
	if addr.Addr().Is6() {
		network = "6"
	}
	lc := net.ListenConfig{Control: func(network, _ string, c syscall.RawConn) error {
		err := setBuffers(network, c)
		if !alone {
			err = errors.Join(err, sharePort(c))
		}
		return err
	}}
	pc, err := lc.ListenPacket(ctx, "udp"+network, addr.String())
	if err != nil {
		return fmt.Errorf("listen on %s/udp: %w", addr, err)
	}
	u := pc.(*net.UDPConn)
	s.udp = append(s.udp, u)
	if _, ok := boundTo(u); !ok {
		if err := enablePacketInfo(u, network); err != nil {
			return fmt.Errorf("listen on %s/udp: enable packet info: %w", addr, err)
		}
	}
	bound := netip.AddrPortFrom(addr.Addr(), uint16(u.LocalAddr().(*net.UDPAddr).Port))
	l, err := lc.Listen(ctx, "tcp"+network, bound.String())
	if err != nil {
		return fmt.Errorf("listen on %s/tcp: %w", bound, err)
	}
	s.tcp = append(s.tcp, l.(*net.TCPListener))
	if !alone {
		return nil
	}
	for _, sc := range []syscall.Conn{u, s.tcp[len(s.tcp)-1]} {
		c, err := sc.SyscallConn()
		if err == nil {
			err = sharePort(c)
		}
		if err != nil {
			return fmt.Errorf("listen on %s: share the port: %w", bound, err)
		}
	}
	return nil
}

// sharePort lets other sockets of this user bind the port of c.
func sharePort(c syscall.RawConn) error {
	var serr error
	err := c.Control(func(fd uintptr) { serr = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEPORT, 1) })
	return errors.Join(err, serr)
}

// setBuffers sets the buffer sizes. For UDP they exceed the system's limits if the process has
// the privilege for that, and larger ones remain. Accepted TCP connections inherit the sizes of
// their listener.
func setBuffers(network string, c syscall.RawConn) error {
	var serr error
	err := c.Control(func(fd uintptr) {
		if network[:3] != "udp" {
			for _, buffer := range []int{unix.SO_RCVBUF, unix.SO_SNDBUF} {
				serr = errors.Join(serr, unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, buffer, tcpBuffer))
			}
			return
		}
		serr = errors.Join(raiseBuffer(int(fd), unix.SO_RCVBUF, unix.SO_RCVBUFFORCE, udpReceiveBuffer),
			raiseBuffer(int(fd), unix.SO_SNDBUF, unix.SO_SNDBUFFORCE, udpSendBuffer))
	})
	return errors.Join(err, serr)
}

// raiseBuffer sets the size of a buffer, which force sets beyond the system's limit, unless the
// buffer is larger.
func raiseBuffer(fd, buffer, force, size int) error {
	has, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, buffer)
	if err != nil || has >= 2*size { // the kernel has doubled it
		return err
	}
	if unix.SetsockoptInt(fd, unix.SOL_SOCKET, force, size) == nil {
		return nil
	}
	if limited, err := limitedBuffer(buffer, size); err != nil || has >= limited {
		return err
	}
	return unix.SetsockoptInt(fd, unix.SOL_SOCKET, buffer, size)
}

// limitedBuffer returns the size of a buffer that a process without privileges gets, as the kernel
// reports it. The limits in /proc are not visible in every network namespace.
func limitedBuffer(buffer, size int) (int, error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, fmt.Errorf("open a socket to find the limit of buffers: %w", err)
	}
	defer unix.Close(fd)
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, buffer, size); err != nil {
		return 0, err
	}
	return unix.GetsockoptInt(fd, unix.SOL_SOCKET, buffer)
}

// enablePacketInfo makes the kernel pass the destination address with each query: the
// reply must be sent from that address.
func enablePacketInfo(u *net.UDPConn, network string) error {
	if network == "4" {
		return ipv4.NewPacketConn(u).SetControlMessage(ipv4.FlagDst, true)
	}
	return ipv6.NewPacketConn(u).SetControlMessage(ipv6.FlagDst, true)
}

// Addr returns the first socket's address. All sockets share its port.
func (s *Sockets) Addr() netip.AddrPort {
	return s.udp[0].LocalAddr().(*net.UDPAddr).AddrPort()
}

// Close closes the sockets. It is safe to call more than once.
func (s *Sockets) Close() error {
	var errs []error
	for _, u := range s.udp {
		errs = append(errs, ignoreClosed(u.Close()))
	}
	for _, l := range s.tcp {
		errs = append(errs, ignoreClosed(l.Close()))
	}
	return errors.Join(errs...)
}

func ignoreClosed(err error) error {
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}
