// SPDX-License-Identifier: Apache-2.0

package clienttest

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"sotto/internal/netlab/labtest"
	"sotto/internal/netns"
)

// Sockets are the sockets of a client process, by name.
type Sockets map[string]int

// Run executes a command: VERB [SOCKET [ARGUMENT]].
func (s Sockets) Run(f []string) (string, error) {
	f = pad(f)
	fd, arg := s[f[1]], f[2]
	switch f[0] {
	case "socket":
		fd, err := OpenSocket(arg)
		s[f[1]] = fd
		return "ok", err
	case "socketin": // in the network namespace with the given path
		fd, err := openSocketIn(f[3], arg)
		s[f[1]] = fd
		return "ok", err
	case "bind":
		return "ok", unix.BindToDevice(fd, arg)
	case "from", "local": // the address to send from, or to listen at
		return "ok", unix.Bind(fd, Sockaddr(fd, arg))
	case "listen":
		return "ok", unix.Listen(fd, 8)
	case "accept": // a connection of the listener that is the argument
		fd, _, err := unix.Accept4(s[arg], unix.SOCK_CLOEXEC)
		s[f[1]] = fd
		return "ok", err
	case "connect":
		return "ok", unix.Connect(fd, Sockaddr(fd, arg))
	case "disconnect":
		return "ok", rawCall(unix.SYS_CONNECT, fd, nil, unix.RawSockaddrInet4{Family: unix.AF_UNSPEC})
	case "send":
		return "ok", write(fd)
	case "sendto":
		return "ok", unix.Sendto(fd, []byte(Question), 0, Sockaddr(fd, arg))
	case "answerto":
		return "ok", unix.Sendto(fd, []byte(Answer), 0, Sockaddr(fd, arg))
	case "sendunspec": // an AF_INET socket sends with the family AF_UNSPEC
		return "ok", sendUnspec(fd, arg)
	case "sendcontrol": // on a connected socket, with a control message and no address
		ttl := unix.PktInfo4(&unix.Inet4Pktinfo{})
		return "ok", unix.Sendmsg(fd, []byte(Question), ttl, nil, 0)
	case "recv":
		return receive(fd)
	case "peer":
		sa, err := unix.Getpeername(fd)
		return AddrString(sa), err
	case "name":
		return localAddr(fd)
	case "close":
		delete(s, f[1])
		return "ok", unix.Close(fd)
	case "churn":
		return churn(f[1], f[2], f[3])
	case "churnmptcp":
		return churnMPTCP(f[1])
	case "connectrace":
		return "ok", connectRace(fd, strings.Split(arg, ","))
	case "hold":
		return s.hold(f[1], arg)
	case "drop":
		return s.drop(f[1], arg)
	}
	return s.raw(f)
}

func write(fd int) error {
	_, err := unix.Write(fd, []byte(Question))
	return err
}

func sendUnspec(fd int, to string) error {
	ap := netip.MustParseAddrPort(to)
	return rawCall(unix.SYS_SENDTO, fd, []byte(Question),
		unix.RawSockaddrInet4{Family: unix.AF_UNSPEC, Port: htons(ap.Port()), Addr: ap.Addr().As4()})
}

// localAddr returns the address that a socket sends from.
func localAddr(fd int) (string, error) {
	sa, err := unix.Getsockname(fd)
	if err != nil {
		return "", err
	}
	ap, _ := netip.ParseAddrPort(AddrString(sa))
	return ap.Addr().String(), nil
}

// receive reads one message, and returns it with its source.
func receive(fd int) (string, error) {
	b := make([]byte, 512)
	n, from, err := unix.Recvfrom(fd, b, 0)
	for errors.Is(err, unix.EINTR) { // a signal of the Go runtime: with a timeout the kernel does not restart the call
		n, from, err = unix.Recvfrom(fd, b, 0)
	}
	if err != nil {
		return "", err
	}
	if from == nil {
		return string(b[:n]), nil
	}
	return fmt.Sprintf("%s from %s", b[:n], AddrString(from)), nil
}

// OpenSocket opens a socket of a kind: udp4, tcp6, mptcp4, raw4 and so on.
func OpenSocket(kind string) (int, error) {
	family := unix.AF_INET
	if strings.HasSuffix(kind, "6") {
		family = unix.AF_INET6
	}
	typ, proto := unix.SOCK_DGRAM, 0
	switch kind[:len(kind)-1] {
	case "tcp":
		typ = unix.SOCK_STREAM
	case "mptcp":
		typ, proto = unix.SOCK_STREAM, unix.IPPROTO_MPTCP
	case "udplite":
		proto = unix.IPPROTO_UDPLITE
	case "ping":
		proto = unix.IPPROTO_ICMP
	case "raw":
		typ, proto = unix.SOCK_RAW, unix.IPPROTO_UDP
	case "hdrincl":
		typ, proto = unix.SOCK_RAW, unix.IPPROTO_RAW
	}
	fd, err := unix.Socket(family, typ|unix.SOCK_CLOEXEC, proto)
	if err != nil {
		return 0, err
	}
	wait := unix.NsecToTimeval(int64(labtest.Patience(3 * time.Second)))
	return fd, errors.Join(unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &wait),
		unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &wait))
}

func openSocketIn(namespace, kind string) (fd int, err error) {
	ns, err := netns.OpenPath(namespace)
	if err != nil {
		return 0, err
	}
	defer ns.Close()
	err = ns.Do(func() (err error) {
		fd, err = OpenSocket(kind)
		return err
	})
	return fd, err
}

// Sockaddr converts an address to the family of the socket: an IPv4 address is mapped for an
// AF_INET6 socket.
func Sockaddr(fd int, s string) unix.Sockaddr {
	ap := netip.MustParseAddrPort(s)
	family, _ := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_DOMAIN)
	if family == unix.AF_INET {
		return &unix.SockaddrInet4{Port: int(ap.Port()), Addr: ap.Addr().As4()}
	}
	to := &unix.SockaddrInet6{Port: int(ap.Port()), Addr: ap.Addr().As16()}
	if l, err := net.InterfaceByName(ap.Addr().Zone()); err == nil {
		to.ZoneId = uint32(l.Index)
	}
	return to
}

// AddrString formats an address with its port.
func AddrString(sa unix.Sockaddr) string {
	switch a := sa.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(a.Addr), uint16(a.Port)).String()
	case *unix.SockaddrInet6:
		return netip.AddrPortFrom(netip.AddrFrom16(a.Addr), uint16(a.Port)).String()
	}
	return ""
}

// rawCall calls sendto or connect with an address that package unix does not support.
func rawCall(call uintptr, fd int, data []byte, to unix.RawSockaddrInet4) error {
	size := unsafe.Sizeof(to)
	var no unix.Errno
	if call == unix.SYS_CONNECT {
		_, _, no = unix.Syscall(call, uintptr(fd), uintptr(unsafe.Pointer(&to)), size)
	} else {
		_, _, no = unix.Syscall6(call, uintptr(fd), uintptr(unsafe.Pointer(&data[0])), uintptr(len(data)), 0,
			uintptr(unsafe.Pointer(&to)), size)
	}
	if no != 0 {
		return no
	}
	return nil
}

// Nth returns the n-th of many nameserver addresses, in a network that is not used.
func Nth(n int) netip.Addr {
	return netip.AddrFrom4([4]byte{100, 64 + byte(n>>16), byte(n >> 8), byte(n)})
}

// churn opens, connects and closes COUNT sockets without sending, to DISTINCT addresses in
// turn, starting with the FIRST one. Go's resolver does that with the addresses that it
// resolved.
func churn(count, distinct, first string) (string, error) {
	n, err := strconv.Atoi(count)
	if err != nil {
		return "", err
	}
	of, err := strconv.Atoi(distinct)
	if err != nil {
		return "", err
	}
	from, _ := strconv.Atoi(first)
	start := time.Now()
	for i := range n {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return "", err
		}
		err = unix.Connect(fd, &unix.SockaddrInet4{Port: 53, Addr: Nth(from + i%of).As4()})
		_ = unix.Close(fd)
		if err != nil {
			return "", fmt.Errorf("after %d: %w", i, err)
		}
	}
	return fmt.Sprintf("ok %d", time.Since(start).Nanoseconds()/int64(n)), nil
}

// churnMPTCP is churn with COUNT MPTCP sockets, each to a different address.
func churnMPTCP(count string) (string, error) {
	n, err := strconv.Atoi(count)
	if err != nil {
		return "", err
	}
	for i := range n {
		fd, err := OpenSocket("mptcp4")
		if err != nil {
			return "", err
		}
		// After a signal of the Go runtime the kernel completes the connect.
		err = ignore(unix.Connect(fd, &unix.SockaddrInet4{Port: 53, Addr: Nth(i).As4()}), unix.EINTR)
		if err = firstError(err, func() error { return unix.Close(fd) }); err != nil {
			return "", err
		}
	}
	return "ok", nil
}

// connectRace connects one socket from one thread per address.
func connectRace(fd int, addrs []string) error {
	var threads sync.WaitGroup
	for _, addr := range addrs {
		to := Sockaddr(fd, addr)
		threads.Go(func() {
			for range 1000 {
				_ = unix.Connect(fd, to) // the last one determines the peer
			}
		})
	}
	threads.Wait()
	return nil
}

// drop closes COUNT sockets that hold opened.
func (s Sockets) drop(name, count string) (string, error) {
	n, err := strconv.Atoi(count)
	if err != nil {
		return "", err
	}
	for i := range n {
		if err := unix.Close(s[name+strconv.Itoa(i)]); err != nil {
			return "", err
		}
	}
	return "ok", nil
}

// hold opens COUNT connected sockets, each to a different nameserver. It returns how many it
// opened, and the error of the next one.
func (s Sockets) hold(name, count string) (string, error) {
	n, err := strconv.Atoi(count)
	if err != nil {
		return "", err
	}
	_ = unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: 1 << 16, Max: 1 << 16})
	for i := range n {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return "", err
		}
		s[name+strconv.Itoa(i)] = fd
		err = unix.Connect(fd, &unix.SockaddrInet4{Port: 53, Addr: Nth(i).As4()})
		var no unix.Errno
		if errors.As(err, &no) {
			return fmt.Sprintf("%d %s", i, unix.ErrnoName(no)), nil
		}
	}
	return fmt.Sprintf("%d ok", n), nil
}

// htons converts v to network byte order.
func htons(v uint16) uint16 {
	return binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, v))
}
