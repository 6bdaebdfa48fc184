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
	// udpReceiveBuffer absorbs a burst while a reader goroutine waits for its
	// turn: some ten thousand small queries.
	udpReceiveBuffer = 4 << 20

	// tcpBuffer is what the kernel may keep for a connection each way (it doubles
	// the number, for its own account). Left to itself it goes up to some megabytes,
	// and a client that does not read would have that of each of its connections.
	// Clients are near: they need no more for what is in flight.
	tcpBuffer = 64 << 10

	// maxPort0Tries bounds the search for a port that is free for UDP and TCP.
	maxPort0Tries = 16
)

// Sockets are the bound sockets that a [Forwarder] serves. They stay in the
// network namespace that they were opened in, whoever uses them.
type Sockets struct {
	udp []*net.UDPConn
	tcp []*net.TCPListener
}

// Listen opens n UDP sockets and n TCP listeners on addr, which share its port
// by SO_REUSEPORT, in the network namespace of the calling thread. An
// unspecified IPv6 address stands for both families, each with sockets of its
// own; where the kernel has no IPv6 that means IPv4 alone. Port 0 picks one that
// is free for both protocols.
//
// The caller closes the Sockets, unless it gives them to [Forwarder.Serve].
func Listen(ctx context.Context, addr netip.AddrPort, n int) (*Sockets, error) {
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
		if s, err = listenAll(ctx, hosts, addr.Port(), n); err == nil {
			return s, nil
		}
		if addr.Port() != 0 || !errors.Is(err, unix.EADDRINUSE) {
			break
		}
	}
	return nil, err
}

// listenAll opens n sockets a host and protocol on one port, all or none.
func listenAll(ctx context.Context, hosts []netip.Addr, port uint16, n int) (_ *Sockets, err error) {
	s := &Sockets{}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.Close())
		}
	}()
	for i, host := range hosts {
		for range n {
			at := netip.AddrPortFrom(host, port)
			if err := s.open(ctx, at); err != nil {
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

// open adds one UDP socket and one TCP listener at addr.
func (s *Sockets) open(ctx context.Context, addr netip.AddrPort) error {
	network := "4"
	if addr.Addr().Is6() {
		network = "6"
	}
	lc := net.ListenConfig{Control: reusePort}
	pc, err := lc.ListenPacket(ctx, "udp"+network, addr.String())
	if err != nil {
		return fmt.Errorf("listen on %s/udp: %w", addr, err)
	}
	u := pc.(*net.UDPConn)
	s.udp = append(s.udp, u)
	if _, one := boundTo(u); !one {
		if err := askLocalAddress(u, network); err != nil {
			return fmt.Errorf("listen on %s/udp: ask for local addresses: %w", addr, err)
		}
	}
	bound := netip.AddrPortFrom(addr.Addr(), uint16(u.LocalAddr().(*net.UDPAddr).Port))
	l, err := lc.Listen(ctx, "tcp"+network, bound.String())
	if err != nil {
		return fmt.Errorf("listen on %s/tcp: %w", bound, err)
	}
	s.tcp = append(s.tcp, l.(*net.TCPListener))
	return nil
}

// reusePort lets several sockets share one port. For UDP it asks for room for bursts:
// beyond the system's limit where the process may, up to it elsewhere. For TCP it
// bounds the room, of which connections have what their listener has.
func reusePort(network, _ string, c syscall.RawConn) error {
	var serr error
	err := c.Control(func(fd uintptr) {
		serr = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEPORT, 1)
		if serr != nil {
			return
		}
		if network[:3] != "udp" {
			for _, buffer := range []int{unix.SO_RCVBUF, unix.SO_SNDBUF} {
				serr = errors.Join(serr, unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, buffer, tcpBuffer))
			}
			return
		}
		if unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, udpReceiveBuffer) != nil {
			serr = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUF, udpReceiveBuffer)
		}
	})
	return errors.Join(err, serr)
}

// askLocalAddress has the kernel tell each query's destination address, the
// one that its reply must come from.
func askLocalAddress(u *net.UDPConn, network string) error {
	if network == "4" {
		return ipv4.NewPacketConn(u).SetControlMessage(ipv4.FlagDst, true)
	}
	return ipv6.NewPacketConn(u).SetControlMessage(ipv6.FlagDst, true)
}

// Addr is the first socket's address; all share its port.
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
