// SPDX-License-Identifier: Apache-2.0

package clienttest

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// errUnknown is the error for an unknown command.
var errUnknown = errors.New("unknown command")

// unusual runs commands that send queries in ways that few programs use: VERB SOCKET ARGUMENT.
func (s Sockets) unusual(f []string) (string, error) {
	fd, arg := s[f[1]], f[2]
	switch f[0] {
	case "more": // a datagram in pieces
		if _, err := unix.SendmsgN(fd, []byte(Question[:3]), nil, nil, unix.MSG_MORE); err != nil {
			return "", err
		}
		_, err := unix.Write(fd, []byte(Question[3:]))
		return "ok", err
	case "moreto":
		to := Sockaddr(fd, arg)
		return "ok", firstError(unix.Sendto(fd, []byte(Question[:3]), unix.MSG_MORE, to), func() error { return unix.Sendto(fd, []byte(Question[3:]), 0, to) })
	case "firstto":
		return "ok", unix.Sendto(fd, []byte(Question[:3]), unix.MSG_MORE, Sockaddr(fd, arg))
	case "lastto":
		return "ok", unix.Sendto(fd, []byte(Question[3:]), 0, Sockaddr(fd, arg))
	case "big": // larger than the MTU
		return "ok", unix.Sendto(fd, []byte(strings.Repeat(Question, 300)), 0, Sockaddr(fd, arg))
	case "pktinfo": // by an interface that a control message names
		return "ok", sendPktinfo(fd, "eth0", Sockaddr(fd, arg))
	case "fastopen": // data in the SYN
		return "ok", unix.Sendto(fd, []byte(Question), unix.MSG_FASTOPEN, Sockaddr(fd, arg))
	case "mmsg": // several nameservers in one call
		return "ok", sendmmsg(fd, strings.Split(arg, ","))
	case "uring": // KIND>ADDRESS
		kind, to, _ := strings.Cut(arg, ">")
		return "ok", uring(fd, kind, to)
	case "dontroute":
		return "ok", unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_DONTROUTE, 1)
	case "moveself": // to the cgroup with the given directory
		return "ok", os.WriteFile(f[1]+"/cgroup.procs", []byte("0"), 0)
	}
	return "", errUnknown
}

// firstError returns err, or the result of then if err is nil.
func firstError(err error, then func() error) error {
	if err != nil {
		return err
	}
	return then()
}

func sendPktinfo(fd int, ifname string, to unix.Sockaddr) error {
	l, err := net.InterfaceByName(ifname)
	if err != nil {
		return err
	}
	control := unix.PktInfo4(&unix.Inet4Pktinfo{Ifindex: int32(l.Index)})
	if _, ok := to.(*unix.SockaddrInet6); ok {
		control = unix.PktInfo6(&unix.Inet6Pktinfo{Ifindex: uint32(l.Index)})
	}
	return unix.Sendmsg(fd, []byte(Question), control, to, 0)
}

// RawAddr returns an address in the format of system calls.
func RawAddr(addr string) []byte {
	ap := netip.MustParseAddrPort(addr)
	if ap.Addr().Is4() {
		b := binary.NativeEndian.AppendUint16(nil, unix.AF_INET)
		b = append(binary.BigEndian.AppendUint16(b, ap.Port()), ap.Addr().AsSlice()...)
		return append(b, make([]byte, 8)...)
	}
	b := binary.NativeEndian.AppendUint16(nil, unix.AF_INET6)
	b = append(binary.BigEndian.AppendUint16(b, ap.Port()), 0, 0, 0, 0)
	return append(append(b, ap.Addr().AsSlice()...), 0, 0, 0, 0)
}

// message returns a struct msghdr with a query to addr, and the objects that it refers to.
func message(addr string) (*unix.Msghdr, []any) {
	name, text := RawAddr(addr), []byte(Question)
	iov := &unix.Iovec{Base: &text[0]}
	iov.SetLen(len(text))
	m := &unix.Msghdr{Name: &name[0], Namelen: uint32(len(name)), Iov: iov}
	m.SetIovlen(1)
	return m, []any{name, text, iov}
}

func sendmmsg(fd int, addrs []string) error {
	type mmsghdr struct {
		hdr unix.Msghdr
		n   uint32
		_   [4]byte
	}
	var all []mmsghdr
	var keep []any
	for _, a := range addrs {
		m, k := message(a)
		all, keep = append(all, mmsghdr{hdr: *m}), append(keep, k)
	}
	n, _, no := unix.Syscall6(unix.SYS_SENDMMSG, uintptr(fd), uintptr(unsafe.Pointer(&all[0])), uintptr(len(all)), 0, 0, 0)
	runtime.KeepAlive(keep)
	if no != 0 {
		return no
	}
	if int(n) != len(all) {
		return fmt.Errorf("sent %d of %d", n, len(all))
	}
	return nil
}

// From linux/io_uring.h.
const (
	uringSendmsg = 9
	uringConnect = 16
	uringSend    = 26

	uringSQEs    = 0x10000000
	uringCQ      = 0x8000000
	uringGetWait = 1
)

// uringParams is struct io_uring_params.
type uringParams struct {
	sqEntries, cqEntries, flags, cpu, idle, features, wq uint32
	_                                                    [3]uint32
	sqHead, sqTail, sqMask, sqEnts, sqFlags, sqDropped   uint32
	sqArray, _                                           uint32
	_                                                    uint64
	cqHead, cqTail, cqMask, cqEnts, cqOverflow, cqes     uint32
	cqFlags, _                                           uint32
	_                                                    uint64
}

// uring executes one operation on a socket by io_uring, and returns its error.
func uring(fd int, kind, addr string) error {
	var p uringParams
	ring, _, no := unix.Syscall(unix.SYS_IO_URING_SETUP, 2, uintptr(unsafe.Pointer(&p)), 0)
	if no != 0 {
		return no
	}
	defer unix.Close(int(ring))
	sq, err := unix.Mmap(int(ring), 0, int(p.sqArray+p.sqEntries*4), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Munmap(sq) }()
	cq, err := unix.Mmap(int(ring), uringCQ, int(p.cqes+p.cqEntries*16), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Munmap(cq) }()
	sqes, err := unix.Mmap(int(ring), uringSQEs, int(p.sqEntries*64), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Munmap(sqes) }()

	name, text := RawAddr(addr), []byte(Question)
	m, keep := message(addr)
	word := binary.NativeEndian
	word.PutUint32(sqes[4:], uint32(fd))
	switch kind {
	case "connect":
		sqes[0] = uringConnect
		word.PutUint64(sqes[16:], uint64(uintptr(unsafe.Pointer(&name[0]))))
		word.PutUint64(sqes[8:], uint64(len(name)))
	case "sendmsg":
		sqes[0] = uringSendmsg
		word.PutUint64(sqes[16:], uint64(uintptr(unsafe.Pointer(m))))
		word.PutUint32(sqes[24:], 1)
	case "send":
		sqes[0] = uringSend
		word.PutUint64(sqes[16:], uint64(uintptr(unsafe.Pointer(&text[0]))))
		word.PutUint32(sqes[24:], uint32(len(text)))
	}
	word.PutUint32(sq[p.sqArray:], 0)
	word.PutUint32(sq[p.sqTail:], 1) // the system call below is the barrier
	_, _, no = unix.Syscall6(unix.SYS_IO_URING_ENTER, ring, 1, 1, uringGetWait, 0, 0)
	runtime.KeepAlive(keep)
	runtime.KeepAlive(name)
	runtime.KeepAlive(text)
	if no != 0 {
		return no
	}
	if result := int32(word.Uint32(cq[p.cqes+8:])); result < 0 {
		return unix.Errno(-result)
	}
	return nil
}
