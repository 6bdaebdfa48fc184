// SPDX-License-Identifier: Apache-2.0

package client

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// goLookups resolves fifty names concurrently with Go's own resolver, in both families.
func goLookups([]string) error {
	r := net.Resolver{PreferGo: true}
	var wg sync.WaitGroup
	errs := make(chan error, 50)
	for i := range 50 {
		wg.Go(func() {
			ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
			defer cancel()
			addrs, err := r.LookupHost(ctx, fmt.Sprintf("n%d.example.com.", i))
			slices.Sort(addrs)
			if err == nil && !slices.Equal(addrs, []string{Answer4, Answer6}) {
				err = fmt.Errorf("n%d: %v", i, addrs)
			}
			if err != nil {
				errs <- err
			}
		})
	}
	wg.Wait()
	close(errs)
	return <-errs
}

// goLookup resolves a name like most programs in Go. GODEBUG=netdns=go or cgo selects the
// resolver. Like libc.c it prints the time to stderr. An error of the lookup is a result.
func goLookup(args []string) error {
	start := time.Now()
	addrs, err := net.DefaultResolver.LookupHost(context.Background(), args[0])
	fmt.Fprintf(os.Stderr, "%s %d us\n", args[0], time.Since(start).Microseconds())
	fmt.Println(args[0], addrs, err)
	return nil
}

// udpSocket opens a UDP socket whose reads time out after five seconds.
func udpSocket(family int) (int, error) {
	fd, err := unix.Socket(family, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	tv := unix.Timeval{Sec: 5}
	return fd, unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &tv)
}

// recvfrom is recvfrom(2), restarted after a signal, which the kernel does not do for a socket
// with a timeout. The Go runtime sends signals to itself.
func recvfrom(fd int, buf []byte) (n int, from unix.Sockaddr, err error) {
	for {
		if n, from, err = unix.Recvfrom(fd, buf, 0); !errors.Is(err, unix.EINTR) {
			return n, from, err
		}
	}
}

// sockaddr4 and sockaddr6 return the socket address of port 53 at an address.
func sockaddr4(addr string) *unix.SockaddrInet4 {
	return &unix.SockaddrInet4{Port: 53, Addr: netip.MustParseAddr(addr).As4()}
}

func sockaddr6(addr string) *unix.SockaddrInet6 {
	return &unix.SockaddrInet6{Port: 53, Addr: netip.MustParseAddr(addr).As16()}
}

// addrText returns a socket address as text.
func addrText(sa unix.Sockaddr) string {
	switch sa := sa.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(sa.Addr), uint16(sa.Port)).String()
	case *unix.SockaddrInet6:
		return netip.AddrPortFrom(netip.AddrFrom16(sa.Addr), uint16(sa.Port)).String()
	}
	return fmt.Sprintf("%T", sa)
}

// fourNameservers queries four nameservers from one socket, as musl does, and checks that each
// reply is from the nameserver that was queried. It does so four times.
func fourNameservers(servers []string) error {
	fd, err := udpSocket(unix.AF_INET)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	for round := range 4 {
		want := map[uint16]string{}
		for i, s := range servers {
			id := uint16(round*100 + i)
			want[id] = s + ":53"
			if err := unix.Sendto(fd, packed(id, fmt.Sprintf("r%d-%d.example.", round, i)), 0, sockaddr4(s)); err != nil {
				return fmt.Errorf("send to %s: %w", s, err)
			}
		}
		for range servers {
			buf := make([]byte, 4096)
			n, from, err := recvfrom(fd, buf)
			if err != nil {
				return fmt.Errorf("receive: %w", err)
			}
			id := binary.BigEndian.Uint16(buf)
			if addrText(from) != want[id] {
				return fmt.Errorf("the reply to %s is from %s", want[id], addrText(from))
			}
			if err := checkReply(buf[:n], id); err != nil {
				return err
			}
			delete(want, id)
		}
	}
	return nil
}

// connected connects a socket to one nameserver after the other, in the family of the
// addresses, checks its peer address and sends queries.
func connected(servers []string) error {
	family := unix.AF_INET
	if netip.MustParseAddr(servers[0]).Is6() {
		family = unix.AF_INET6
	}
	fd, err := udpSocket(family)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	for i, s := range servers {
		var sa unix.Sockaddr = sockaddr6OrNil(s)
		if family == unix.AF_INET {
			sa = sockaddr4(s)
		}
		if err := unix.Connect(fd, sa); err != nil {
			return fmt.Errorf("connect to %s: %w", s, err)
		}
		peer, err := unix.Getpeername(fd)
		if err != nil || addrText(peer) != addrText(sa) {
			return fmt.Errorf("connected to %s, the peer is %s, %v", s, addrText(peer), err)
		}
		if err := askConnected(fd, uint16(i), addrText(sa)); err != nil {
			return err
		}
	}
	return nil
}

func sockaddr6OrNil(addr string) unix.Sockaddr {
	if !netip.MustParseAddr(addr).Is6() {
		return nil
	}
	return sockaddr6(addr)
}

// askConnected sends queries by send, by sendmsg with only a control message, and by write,
// and checks the source of each reply.
func askConnected(fd int, id uint16, from string) error {
	q := packed(id, fmt.Sprintf("c%d.example.", id))
	ttl := make([]byte, unix.CmsgSpace(4))
	h := (*unix.Cmsghdr)(unsafe.Pointer(&ttl[0]))
	h.Level, h.Type = unix.IPPROTO_IP, unix.IP_TTL
	h.SetLen(unix.CmsgLen(4))
	ttl[unix.CmsgLen(0)] = 60
	sends := map[string]func() error{
		"write":   func() error { _, err := unix.Write(fd, q); return err },
		"send":    func() error { return unix.Send(fd, q, 0) },
		"control": func() error { return unix.Sendmsg(fd, q, ttl, nil, 0) },
	}
	if family, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_DOMAIN); err == nil && family == unix.AF_INET6 {
		delete(sends, "control") // IP_TTL is for IPv4
	}
	for how, send := range sends {
		if err := send(); err != nil {
			return fmt.Errorf("%s to %s: %w", how, from, err)
		}
		buf := make([]byte, 4096)
		n, sa, err := recvfrom(fd, buf)
		if err != nil {
			return fmt.Errorf("receive after %s to %s: %w", how, from, err)
		}
		if addrText(sa) != from {
			return fmt.Errorf("the reply of %s is from %s", from, addrText(sa))
		}
		if err := checkReply(buf[:n], id); err != nil {
			return err
		}
	}
	return nil
}

// mappedAddresses queries IPv4 nameservers from an IPv6 socket, connected and not.
func mappedAddresses(servers []string) error {
	for i, s := range servers {
		sa := sockaddr6("::ffff:" + s)
		fd, err := udpSocket(unix.AF_INET6)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		if err := unix.Sendto(fd, packed(uint16(i), "mapped.example."), 0, sa); err != nil {
			return fmt.Errorf("send to %s: %w", s, err)
		}
		buf := make([]byte, 4096)
		n, from, err := recvfrom(fd, buf)
		if err != nil {
			return fmt.Errorf("receive: %w", err)
		}
		if addrText(from) != addrText(sa) {
			return fmt.Errorf("queried %s, the reply is from %s", addrText(sa), addrText(from))
		}
		if err := checkReply(buf[:n], uint16(i)); err != nil {
			return err
		}
		if err := unix.Connect(fd, sa); err != nil {
			return fmt.Errorf("connect to %s: %w", addrText(sa), err)
		}
		peer, err := unix.Getpeername(fd)
		if err != nil || addrText(peer) != addrText(sa) {
			return fmt.Errorf("connected to %s, the peer is %s, %v", addrText(sa), addrText(peer), err)
		}
		if err := askConnected(fd, uint16(100+i), addrText(sa)); err != nil {
			return err
		}
	}
	return nil
}

// pipelinedTCP sends twenty queries on one connection before it reads.
func pipelinedTCP(servers []string) error {
	for _, s := range servers {
		at := netip.AddrPortFrom(netip.MustParseAddr(s), 53)
		c, err := net.DialTimeout("tcp", at.String(), 5*time.Second)
		if err != nil {
			return err
		}
		defer c.Close()
		if c.RemoteAddr().String() != at.String() {
			return fmt.Errorf("connected to %s, the peer is %s", at, c.RemoteAddr())
		}
		c.SetDeadline(time.Now().Add(10 * time.Second))
		var all bytes.Buffer
		for id := range uint16(20) {
			q := packed(id, fmt.Sprintf("t%d.example.", id))
			all.Write(binary.BigEndian.AppendUint16(nil, uint16(len(q))))
			all.Write(q)
		}
		if _, err := c.Write(all.Bytes()); err != nil {
			return err
		}
		seen := map[uint16]bool{}
		for range 20 {
			var length uint16
			if err := binary.Read(c, binary.BigEndian, &length); err != nil {
				return fmt.Errorf("after %d replies: %w", len(seen), err)
			}
			buf := make([]byte, length)
			if _, err := io.ReadFull(c, buf); err != nil {
				return err
			}
			id := binary.BigEndian.Uint16(buf)
			if seen[id] {
				return fmt.Errorf("two replies with ID %d", id)
			}
			seen[id] = true
			if err := checkReply(buf, id); err != nil {
				return err
			}
		}
	}
	return nil
}

// unspecFamily sends to an address with the family AF_UNSPEC, which udp(7) accepts on an
// AF_INET socket. The query has to be sealed like any other.
func unspecFamily(servers []string) error {
	fd, err := udpSocket(unix.AF_INET)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	sa := unix.RawSockaddrInet4{Family: unix.AF_UNSPEC, Addr: netip.MustParseAddr(servers[0]).As4()}
	binary.BigEndian.PutUint16((*[2]byte)(unsafe.Pointer(&sa.Port))[:], 53)
	q := packed(7, "unspec.example.")
	_, _, errno := unix.Syscall6(unix.SYS_SENDTO, uintptr(fd), uintptr(unsafe.Pointer(&q[0])), uintptr(len(q)), 0, uintptr(unsafe.Pointer(&sa)), unsafe.Sizeof(sa))
	if errno != 0 {
		return fmt.Errorf("send: %w", errno)
	}
	buf := make([]byte, 4096)
	n, from, err := recvfrom(fd, buf)
	if err != nil {
		return fmt.Errorf("receive: %w", err)
	}
	if addrText(from) != servers[0]+":53" {
		return fmt.Errorf("queried %s, the reply is from %s", servers[0], addrText(from))
	}
	return checkReply(buf[:n], 7)
}
