// SPDX-License-Identifier: Apache-2.0

package dot

import (
	"net"
	"os"
	"os/exec"
	"sync/atomic"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"sotto/forwarder/upstream/servertest"
	"sotto/forwarder/upstream/transport"
	"sotto/forwarder/wire"
	"sotto/internal/dnstest"
)

// insideVar is set if the test binary runs in its own network namespace.
const insideVar = "SOTTO_TEST_FASTOPEN"

// TestFastOpen runs itself again in a network namespace of its own, where TCP Fast Open is
// enabled for servers as well, which is a setting of the namespace.
func TestFastOpen(t *testing.T) {
	if os.Getenv(insideVar) != "" {
		fastOpenInside(t)
		return
	}
	if os.Geteuid() != 0 {
		servertest.Skip(t, "needs root to make a network namespace")
	}
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestFastOpen$", "-test.v")
	cmd.Env = append(os.Environ(), insideVar+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v:\n%s", err, out)
	}
}

// loopbackUp sets the loopback interface of a new namespace up.
func loopbackUp(t *testing.T) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	lo, err := unix.NewIfreq("lo")
	if err != nil {
		t.Fatal(err)
	}
	lo.SetUint16(unix.IFF_UP)
	if err := unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, lo); err != nil {
		t.Fatalf("set lo up: %v", err)
	}
}

// fastOpenInside checks that a connection that is reopened sends its first bytes with the
// SYN.
func fastOpenInside(t *testing.T) {
	loopbackUp(t)
	// Enable it for clients and for all servers, with or without the socket option (0x400).
	if err := os.WriteFile("/proc/sys/net/ipv4/tcp_fastopen", []byte("1027"), 0); err != nil {
		t.Fatal(err)
	}
	s := servertest.Serve(t, servertest.Zone(t), nil)
	cl := newClient(t, s)
	for i := range 4 {
		servertest.MustAsk(t, cl, "www.example.")
		if early := withSYN(t, cl); early != (i > 0) {
			t.Errorf("connection %d: data with the SYN: %v", i, early)
		}
		s.EndConns(dnstest.Close)
		servertest.Eventually(t, "it closes", func() bool { return cl.stats().Conns == 0 })
	}
	if st := cl.stats(); st.Dials != 4 || st.DialErrors != 0 || st.Resumed != 3 {
		t.Errorf("stats %+v, want four connections, three of them resumed", st)
	}
	// With a cookie connect does not fail, and the handshake returns the error.
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	_, err := servertest.Ask(t, cl, "www.example.")
	servertest.WantEDE(t, err, wire.EDENetworkError, "connection refused: nothing listens on TCP port ")
	// It does not delay the other address.
	other := servertest.Serve(t, servertest.Zone(t), nil)
	both := racers(s, other)
	cl = clientOf(t, transport.Config{Server: both})
	servertest.MustAsk(t, cl, "www.example.")
	if n := other.Stats().Queries(); n != 1 {
		t.Errorf("%d queries to the address that works", n)
	}
}

// withSYN reports whether the open connection sent data with its SYN that was acknowledged.
func withSYN(t *testing.T, cl *client) (early bool) {
	const synData = 32 // TCPI_OPT_SYN_DATA
	raw, err := cl.pool.firstConn().raw.Conn.(*net.TCPConn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	err = raw.Control(func(fd uintptr) {
		info, err := unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO)
		if err != nil {
			t.Error(err)
			return
		}
		early = info.Options&synData != 0
	})
	if err != nil {
		t.Error(err)
	}
	return early
}

// TestFastOpenFails: if the kernel cannot use TCP Fast Open after all, one attempt fails and
// it is not used again.
func TestFastOpenFails(t *testing.T) {
	var dials atomic.Int32
	s := servertest.Serve(t, servertest.Zone(t), nil)
	cl := clientOf(t, transport.Config{
		Server: transport.Server{Addr: s.Addr(), Name: servertest.Name},
		Control: func(string, string, syscall.RawConn) error {
			if dials.Add(1) == 1 {
				return syscall.EINPROGRESS
			}
			return nil
		},
	})
	servertest.MustAsk(t, cl, "www.example.")
	if st := cl.stats(); st.Dials != 2 || st.DialErrors != 0 || st.Failed != 0 || cl.pool.dialer.FastOpen() {
		t.Errorf("stats %+v, want a second attempt without it", st)
	}
}
