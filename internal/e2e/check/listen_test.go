// SPDX-License-Identifier: Apache-2.0

package check

import (
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"testing"

	"sotto/internal/dnstest"
)

// listenPlain opens sockets of a plain nameserver on the host. They belong to the test's cgroup.
func listenPlain(w world, addr string) (l []net.Listener, pc []net.PacketConn, err error) {
	err = w.Host.Do(func() error {
		tcp, udp, err := dnstest.ListenPlain(netip.MustParseAddrPort(addr))
		l, pc = []net.Listener{tcp}, []net.PacketConn{udp}
		return err
	})
	return l, pc, err
}

// listenUnix listens on a Unix socket until the test ends.
func listenUnix(t *testing.T, path string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = l.Close()
		_ = os.Remove(filepath.Dir(path)) // fails unless it is empty
	})
}
