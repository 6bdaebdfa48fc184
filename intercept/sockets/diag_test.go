// SPDX-License-Identifier: Apache-2.0

package sockets

import (
	"encoding/binary"
	"net"
	"net/netip"
	"slices"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// TestListRemote: the remote address of a UDP socket is listed while it is connected, also
// if the kernel keeps the address of a disconnected socket (IPv6).
func TestListRemote(t *testing.T) {
	for _, tc := range []struct {
		family uint8
		remote netip.AddrPort
		to     unix.Sockaddr
	}{
		{unix.AF_INET, netip.MustParseAddrPort("127.0.0.1:9"), &unix.SockaddrInet4{Port: 9, Addr: [4]byte{127, 0, 0, 1}}},
		{unix.AF_INET6, netip.MustParseAddrPort("[::1]:9"), &unix.SockaddrInet6{Port: 9, Addr: netip.IPv6Loopback().As16()}},
	} {
		fd, err := unix.Socket(int(tc.family), unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Close(fd)
		if err := unix.Connect(fd, tc.to); err != nil {
			t.Fatal(err)
		}
		if got := listed(t, fd, tc.family); got.Remote != tc.remote {
			t.Errorf("connected to %v, listed as %+v", tc.remote, got)
		}
		if err := disconnect(fd); err != nil {
			t.Fatal(err)
		}
		// It has lost its port, and is listed again with the next one. send(2) binds it too.
		if _, err := unix.Write(fd, []byte("x")); err != unix.EDESTADDRREQ {
			t.Fatalf("send without a peer: %v", err)
		}
		if got := listed(t, fd, tc.family); got.Remote.IsValid() {
			t.Errorf("disconnected from %v, listed as %+v", tc.remote, got)
		}
	}
}

// listed returns the socket as the kernel lists it.
func listed(t *testing.T, fd int, family uint8) Socket {
	t.Helper()
	cookie, err := unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_COOKIE)
	if err != nil {
		t.Fatal(err)
	}
	all, err := List(family, unix.IPPROTO_UDP)
	if err != nil {
		t.Fatal(err)
	}
	n := slices.IndexFunc(all, func(s Socket) bool { return cookieOf(&s) == cookie })
	if n < 0 {
		t.Fatalf("the socket is not listed among %d", len(all))
	}
	return all[n]
}

// cookieOf returns idiag_cookie of struct inet_diag_sockid: two words, the lower one first.
func cookieOf(s *Socket) uint64 {
	low, high := binary.NativeEndian.Uint32(s.id[idSize-8:]), binary.NativeEndian.Uint32(s.id[idSize-4:])
	return uint64(high)<<32 | uint64(low)
}

// disconnect dissolves the association of a datagram socket (connect(2)).
func disconnect(fd int) error {
	to := unix.RawSockaddr{Family: unix.AF_UNSPEC}
	if _, _, errno := unix.Syscall(unix.SYS_CONNECT, uintptr(fd), uintptr(unsafe.Pointer(&to)), unsafe.Sizeof(to)); errno != 0 {
		return errno
	}
	return nil
}

// TestListClosed: a TCP socket whose program has closed it is listed as closed while the peer has not acknowledged its end.
func TestListClosed(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	local := c.LocalAddr().(*net.TCPAddr).AddrPort()
	state := func() (all []bool) {
		found, err := List(unix.AF_INET, unix.IPPROTO_TCP)
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range found {
			if s.Local == local && s.state != stateTimeWait {
				all = append(all, s.Closed)
			}
		}
		return all
	}
	if got := state(); !slices.Equal(got, []bool{false}) {
		t.Errorf("open: closed %v", got)
	}
	c.Close() // the peer does not close its end: FIN_WAIT2
	if got := state(); !slices.Equal(got, []bool{true}) {
		t.Errorf("closed: closed %v", got)
	}
}
