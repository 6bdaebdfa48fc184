// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"net"
	"net/netip"
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"sotto/forwarder"
	"sotto/internal/takeover"
)

// unixPair returns both ends of a Unix stream connection.
func unixPair(t *testing.T) (ends [2]*net.UnixConn) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	for i, fd := range fds {
		f := os.NewFile(uintptr(fd), "end")
		c, err := net.FileConn(f)
		_ = f.Close()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Close() })
		ends[i] = c.(*net.UnixConn)
	}
	return ends
}

// TestManySocketsHandedOver: on a machine with many processors all sockets of the listener fit
// into the message that hands them over.
func TestManySocketsHandedOver(t *testing.T) {
	sockets, err := forwarder.ListenShared(t.Context(), netip.AddrPortFrom(netip.IPv6Unspecified(), 0), listenSockets(64))
	if err != nil {
		t.Fatal(err)
	}
	defer sockets.Close()
	udp, tcp, err := sockets.Descriptors()
	if err != nil {
		t.Fatal(err)
	}
	ends := unixPair(t)
	offered := make(chan error, 1)
	go func() {
		successor := takeover.NewSuccessor(ends[0], takeover.Terms{})
		err := successor.Offer(t.Context(), nil, udp, tcp)
		if err != nil {
			_ = successor.Close() // or else Receive would wait
		}
		offered <- err
	}()
	conn := takeover.NewConn(ends[1])
	if err := conn.Send(takeover.MsgReady, nil); err != nil {
		t.Fatal(err)
	}
	kind, data, files, err := conn.Receive()
	if err != nil {
		t.Fatalf("receive %d sockets: %v, %v", len(udp)+len(tcp), err, <-offered)
	}
	defer closeFiles(files)
	if kind != takeover.MsgSockets || len(data) != 1 || int(data[0]) != len(udp) || len(files) != len(udp)+len(tcp) {
		t.Errorf("received message %q with %v and %d files", kind, data, len(files))
	}
	if err := conn.Send(takeover.MsgTake, nil); err != nil {
		t.Fatal(err)
	}
	if err := <-offered; err != nil {
		t.Error(err)
	}
}
