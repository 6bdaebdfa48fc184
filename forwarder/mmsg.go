// SPDX-License-Identifier: Apache-2.0

package forwarder

import (
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"os"
	"strconv"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// recvmmsg and sendmmsg are called directly and not through x/net, which allocates
// three times per datagram. Addresses are kept in the kernel's form, since a reply goes
// to the address that its query came from.

const (
	// udpBatch is the maximum number of messages per system call.
	udpBatch = 32

	// oobSize is enough for one packet info of either family.
	oobSize = 64
)

// sockaddr is a struct sockaddr_in or sockaddr_in6.
type sockaddr [unix.SizeofSockaddrInet6]byte

// addrPort returns the address, invalid if it is of neither family.
func (s *sockaddr) addrPort() netip.AddrPort {
	port := binary.BigEndian.Uint16(s[2:])
	switch binary.NativeEndian.Uint16(s[:]) {
	case unix.AF_INET:
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte(s[4:8])), port)
	case unix.AF_INET6:
		addr := netip.AddrFrom16([16]byte(s[8:24]))
		if scope := binary.NativeEndian.Uint32(s[24:]); scope != 0 {
			addr = addr.WithZone(strconv.FormatUint(uint64(scope), 10))
		}
		return netip.AddrPortFrom(addr, port)
	}
	return netip.AddrPort{}
}

// port returns the address's port, which has the same offset in both families.
func (s *sockaddr) port() uint16 { return binary.BigEndian.Uint16(s[2:]) }

// mmsghdr is the kernel's struct mmsghdr (socket.h): the message, and the number of
// bytes that were received or sent.
type mmsghdr struct {
	hdr unix.Msghdr
	n   uint32
	_   [unsafe.Sizeof(uintptr(0)) - 4]byte
}

// batch holds the messages of one system call. It is used by one goroutine at a time,
// and must be on the heap, where it does not move.
type batch struct {
	conn syscall.RawConn
	hdrs [udpBatch]mmsghdr
	iovs [udpBatch]unix.Iovec

	// Arguments and results of call. It is created only once, so that a call does not
	// allocate.
	trap     uintptr
	from, to int
	n        int
	errno    syscall.Errno
	call     func(fd uintptr) bool
	try      func(fd uintptr) // call without its result

	refused func(i int, err error) // called by send for each message that it drops; may be nil

	// limitWait is called before send waits for space in the socket's buffer, and sets the
	// write deadline. If it is nil, send does not wait.
	limitWait func()
}

// init prepares b for a socket. b must not be copied afterwards.
//
// If raw is set, the Go runtime is not notified of the system calls. None of them
// blocks, but one that sends a whole batch takes longer than the 20 µs after which the
// runtime's monitor gives the processor to another thread, which costs a fifth of a
// hit. The goroutine that reads the socket sets it, since it continues right after the
// call. A goroutine that sends for others does not: they have work to do meanwhile.
func (b *batch) init(conn syscall.RawConn, raw bool) {
	b.conn = conn
	b.call = func(fd uintptr) bool {
		msgs, count := uintptr(unsafe.Pointer(&b.hdrs[b.from])), uintptr(b.to-b.from)
		var n uintptr
		if raw {
			n, _, b.errno = unix.RawSyscall6(b.trap, fd, msgs, count, unix.MSG_DONTWAIT, 0, 0)
		} else {
			n, _, b.errno = unix.Syscall6(b.trap, fd, msgs, count, unix.MSG_DONTWAIT, 0, 0)
		}
		b.n = int(n)
		return b.errno != unix.EAGAIN
	}
	b.try = func(fd uintptr) { b.call(fd) }
	for i := range b.hdrs {
		b.hdrs[i].hdr.Iov = &b.iovs[i]
		b.hdrs[i].hdr.SetIovlen(1)
	}
}

// set sets the parts of the i-th message. name and oob may be nil.
func (b *batch) set(i int, data []byte, name *sockaddr, namelen uint32, oob []byte) {
	b.iovs[i].Base = unsafe.SliceData(data)
	b.iovs[i].SetLen(len(data))
	h := &b.hdrs[i].hdr
	h.Name, h.Namelen = (*byte)(unsafe.Pointer(name)), namelen
	h.Control = unsafe.SliceData(oob)
	h.SetControllen(len(oob))
}

// receive waits for messages and returns their number.
func (b *batch) receive() (int, error) {
	b.trap, b.from, b.to = unix.SYS_RECVMMSG, 0, udpBatch
	if err := b.conn.Read(b.call); err != nil {
		return 0, err
	}
	if b.errno != 0 {
		return 0, os.NewSyscallError("recvmmsg", b.errno)
	}
	return b.n, nil
}

// send sends the first n messages. A message that the kernel refuses, for example
// because there is no route, is dropped; those after it are sent. If the socket's buffer
// stays full, the remaining ones are dropped: packets to a neighbour that does not exist
// occupy it for three seconds (arp(7)), during which others must not wait.
func (b *batch) send(n int) {
	b.trap = unix.SYS_SENDMMSG
	for b.from, b.to = 0, n; b.from < n; {
		if err := b.trySend(); err != nil {
			return // closed
		}
		switch {
		case b.errno == unix.EINTR:
		case b.errno == unix.EAGAIN:
			for ; b.from < n; b.from++ {
				b.refuse(b.from)
			}
		case b.errno != 0 || b.n <= 0:
			b.refuse(b.from)
			b.from++
		default:
			b.from += b.n
		}
	}
}

// trySend makes one system call, and another one when the socket's buffer has space, if send
// may wait for that. The first one does not use [syscall.RawConn.Write], whose lock another
// batch of this socket holds while it waits.
func (b *batch) trySend() error {
	err := b.conn.Control(b.try)
	if err != nil || b.errno != unix.EAGAIN || b.limitWait == nil {
		return err
	}
	b.limitWait()
	if err = b.conn.Write(b.call); errors.Is(err, os.ErrDeadlineExceeded) {
		return nil // b.errno is still EAGAIN
	}
	return err
}

// refuse reports that the i-th message is dropped.
func (b *batch) refuse(i int) {
	if b.refused != nil {
		b.refused(i, os.NewSyscallError("sendmmsg", b.errno))
	}
}

// transient reports whether err concerns an earlier datagram, and not the socket
// itself: the kernel returns such errors from the next call (udp(7)).
func transient(err error) bool {
	return errors.Is(err, unix.ECONNREFUSED) || errors.Is(err, unix.EHOSTUNREACH) ||
		errors.Is(err, unix.ENETUNREACH) || errors.Is(err, unix.EMSGSIZE) || errors.Is(err, unix.EINTR)
}

// boundTo returns the address that a socket is bound to. It reports false for a
// wildcard socket, where the destination comes with each message.
func boundTo(u *net.UDPConn) (netip.Addr, bool) {
	addr := u.LocalAddr().(*net.UDPAddr).AddrPort().Addr()
	return addr.Unmap(), !addr.IsUnspecified()
}

// localAddress reads the packet info that came with a query, and changes it into that
// of the reply: the same address, and any interface, as the route requires.
func localAddress(oob []byte) (netip.Addr, bool) {
	hdr, data, _, err := unix.ParseOneSocketControlMessage(oob)
	if err != nil {
		return netip.Addr{}, false
	}
	switch {
	case hdr.Level == unix.IPPROTO_IP && hdr.Type == unix.IP_PKTINFO && len(data) >= 12:
		// struct in_pktinfo: ifindex, spec_dst (the source of a reply), addr.
		clear(data[:4])
		return netip.AddrFrom4([4]byte(data[8:12])), true
	case hdr.Level == unix.IPPROTO_IPV6 && hdr.Type == unix.IPV6_PKTINFO && len(data) >= 20:
		// struct in6_pktinfo: addr, ifindex. A link-local address needs its
		// interface.
		local := netip.AddrFrom16([16]byte(data[:16]))
		if !local.IsLinkLocalUnicast() {
			clear(data[16:20])
		}
		return local, true
	}
	return netip.Addr{}, false
}
