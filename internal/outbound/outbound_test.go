// SPDX-License-Identifier: Apache-2.0

package outbound

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// listen returns the address of a listener on loopback, and a channel with the addresses of its
// clients.
func listen(t *testing.T, addr string) (string, <-chan netip.AddrPort) {
	t.Helper()
	l, err := net.Listen("tcp", addr)
	if err != nil {
		t.Skipf("no such loopback address here: %v", err)
	}
	clients := make(chan netip.AddrPort, 16)
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				close(clients)
				return
			}
			clients <- c.RemoteAddr().(*net.TCPAddr).AddrPort()
			_ = c.Close()
		}
	}()
	t.Cleanup(func() { _ = l.Close() })
	return l.Addr().String(), clients
}

func dial(t *testing.T, o Options, network, to string) error {
	t.Helper()
	d := net.Dialer{Control: o.Control(nil)}
	c, err := d.DialContext(t.Context(), network, to)
	if err == nil {
		_ = c.Close()
	}
	return err
}

func TestSource(t *testing.T) {
	to, clients := listen(t, "127.0.0.1:0")
	o := Options{Source4: netip.MustParseAddr("127.0.0.77")}
	if err := dial(t, o, "tcp", to); err != nil {
		t.Fatal(err)
	}
	if got := <-clients; got.Addr() != o.Source4 {
		t.Errorf("the client was %v", got)
	}
	d := net.Dialer{Control: o.Control(nil)}
	c, err := d.DialContext(t.Context(), "udp", "127.0.0.1:9")
	if err != nil {
		t.Fatal(err)
	}
	if got := c.LocalAddr().(*net.UDPAddr).AddrPort().Addr(); got != o.Source4 {
		t.Errorf("the source of UDP is %v", got)
	}
	_ = c.Close()
	if to6, _ := listen(t, "[::1]:0"); to6 != "" {
		if err := dial(t, o, "tcp", to6); err == nil || !strings.Contains(err.Error(), "source-address has no IPv6 address") || !errors.Is(err, unix.EAFNOSUPPORT) {
			t.Errorf("a server of the other family: %v", err)
		}
	}
	err = dial(t, Options{Source4: netip.MustParseAddr("198.51.100.77")}, "tcp", to)
	if !errors.Is(err, unix.EADDRNOTAVAIL) || !strings.Contains(err.Error(), `connect to `+to+` with source-address = "198.51.100.77"`) ||
		!strings.Contains(err.Error(), "this machine does not have that address (yet): add it") {
		t.Errorf("an address of another machine: %v", err)
	}
}

// TestUnconnected: an unconnected socket has to be bound to the source address by its owner.
func TestUnconnected(t *testing.T) {
	o := Options{Source4: netip.MustParseAddr("127.0.0.77")}
	lc := net.ListenConfig{Control: o.Control(nil)}
	if pc, err := lc.ListenPacket(t.Context(), "udp4", "0.0.0.0:0"); err == nil || !strings.Contains(err.Error(), "this protocol does not support it") {
		t.Errorf("%v, %v", pc, err)
	}
	source, err := o.Source("udp4")
	if err != nil {
		t.Fatal(err)
	}
	pc, err := lc.ListenPacket(t.Context(), "udp4", netip.AddrPortFrom(source, 0).String())
	if err != nil {
		t.Fatal(err)
	}
	_ = pc.Close()
}

// TestDeviceAndMark: the options are set before the socket connects, after the other function.
func TestDeviceAndMark(t *testing.T) {
	to, _ := listen(t, "127.0.0.1:0")
	called := false
	o := Options{Device: "lo"}
	if unix.Geteuid() == 0 {
		o.Mark = 0x64
	}
	d := net.Dialer{Control: o.Control(func(_, _ string, _ syscall.RawConn) error { called = true; return nil })}
	c, err := d.DialContext(t.Context(), "tcp", to)
	if errors.Is(err, unix.EPERM) {
		t.Skip("needs CAP_NET_ADMIN")
	}
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	raw, err := c.(*net.TCPConn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var mark int
	var device string
	err = raw.Control(func(fd uintptr) {
		mark, err = unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_MARK)
		device, _ = unix.GetsockoptString(int(fd), unix.SOL_SOCKET, unix.SO_BINDTODEVICE)
	})
	if err != nil || !called || mark != int(o.Mark) || strings.TrimRight(device, "\x00") != "lo" {
		t.Errorf("mark %#x, device %q, called %t, %v", mark, device, called, err)
	}
	err = dial(t, Options{Device: "nosuch0"}, "tcp", to)
	if !errors.Is(err, unix.ENODEV) || !strings.Contains(err.Error(), `with device = "nosuch0"`) || !strings.Contains(err.Error(), "no such device on this machine (yet)") {
		t.Errorf("a device that is missing: %v", err)
	}
	failed := errors.New("failed")
	d.Control = o.Control(func(_, _ string, _ syscall.RawConn) error { return failed })
	if _, err := d.DialContext(context.Background(), "tcp", to); !errors.Is(err, failed) {
		t.Errorf("the other function's error: %v", err)
	}
}
