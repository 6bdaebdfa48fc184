// SPDX-License-Identifier: Apache-2.0

package forwarder

import (
	"net"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// bufferSizes returns the sizes of the buffers to receive and to send of all sockets: UDP first.
func bufferSizes(t *testing.T, s *Sockets) (sizes []int) {
	t.Helper()
	udp, tcp, err := s.Descriptors()
	if err != nil {
		t.Fatal(err)
	}
	for _, fd := range append(udp, tcp...) {
		for _, buffer := range []int{unix.SO_RCVBUF, unix.SO_SNDBUF} {
			n, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, buffer)
			if err != nil {
				t.Fatal(err)
			}
			sizes = append(sizes, n)
		}
	}
	return sizes
}

// inherited returns files of a UDP socket and a TCP listener, after set was called for each.
func inherited(t *testing.T, set func(c syscall.RawConn)) (files []*os.File) {
	t.Helper()
	lc := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error { set(c); return nil }}
	u, err := lc.ListenPacket(t.Context(), "udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer u.Close()
	l, err := lc.Listen(t.Context(), "tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for _, c := range []interface{ File() (*os.File, error) }{u.(*net.UDPConn), l.(*net.TCPListener)} {
		f, err := c.File()
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, f)
	}
	return files
}

// TestInheritedBuffers: sockets that another process opened get the buffers of those that Listen
// opens. What an administrator has set remains for UDP if it is larger, but not for TCP.
func TestInheritedBuffers(t *testing.T) {
	own, err := Listen(t.Context(), netip.MustParseAddrPort("127.0.0.1:0"), 1)
	if err != nil {
		t.Fatal(err)
	}
	defer own.Close()
	const larger = 6 << 20
	for what, size := range map[string]int{"the default": 0, "as in the unit": 4 << 20, "larger": larger} {
		forced := true
		s, err := Inherit(inherited(t, func(c syscall.RawConn) {
			_ = c.Control(func(fd uintptr) {
				for _, force := range []int{unix.SO_RCVBUFFORCE, unix.SO_SNDBUFFORCE} {
					forced = forced && size > 0 && unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, force, size) == nil
				}
			})
		}))
		if err != nil {
			t.Fatal(err)
		}
		want := bufferSizes(t, own)
		if forced && size == larger {
			want[0], want[1] = 2*larger, 2*larger
		}
		if got := bufferSizes(t, s); !slices.Equal(got, want) {
			t.Errorf("%s: %v, want %v", what, got, want)
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}
}

// TestLimitedBuffers: without privileges a buffer beyond the system's limit is not made smaller.
func TestLimitedBuffers(t *testing.T) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	limited, err := limitedBuffer(unix.SO_SNDBUF, 1<<30)
	if err != nil || limited > 1<<28 {
		t.Skipf("the system's limit is too high to be exceeded: %d, %v", limited, err)
	}
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, limited); err != nil {
		t.Skipf("needs CAP_NET_ADMIN: %v", err)
	}
	raised := make(chan error)
	go func() {
		runtime.LockOSThread() // the thread ends with the goroutine
		var none [2]unix.CapUserData
		err := unix.Capset(&unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}, &none[0])
		if err == nil {
			err = raiseBuffer(fd, unix.SO_SNDBUF, unix.SO_SNDBUFFORCE, 2*limited)
		}
		raised <- err
	}()
	if err := <-raised; err != nil {
		t.Fatal(err)
	}
	if got, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUF); err != nil || got != 2*limited {
		t.Errorf("%d, %v: want %d", got, err, 2*limited)
	}
}
