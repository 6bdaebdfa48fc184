// SPDX-License-Identifier: Apache-2.0

package intercept

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"sotto/internal/netlab"
	"sotto/internal/netns"
)

// clientVar makes the test binary a client: a process that runs in the cgroup and
// network namespace of a workload and does with sockets what it is told on stdin.
const clientVar = "SOTTO_TEST_CLIENT"

func TestMain(m *testing.M) {
	switch os.Getenv(clientVar) {
	case "client":
		runClient(os.Stdin, os.Stdout)
		os.Exit(0)
	case "seal":
		runSealer()
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// client is the test's end of such a process.
type client struct {
	t   *testing.T
	cmd *netlab.Cmd
	in  io.WriteCloser
	out *bufio.Scanner
}

// startClient starts a process that ends with the test.
func startClient(t *testing.T, at *netlab.Host, in *netlab.Cgroup) *client {
	t.Helper()
	cmd := at.Command(t.Context(), in, os.Args[0])
	// The race detector would have every process wait a second before it ends.
	cmd.Env = append(os.Environ(), clientVar+"=client", "GORACE=atexit_sleep_ms=0")
	cmd.Stderr = os.Stderr
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	c := &client{t, cmd, stdin, bufio.NewScanner(stdout)}
	t.Cleanup(c.end)
	return c
}

// end closes all its sockets, by ending the process. It may be called twice.
func (c *client) end() {
	if c.cmd.ProcessState != nil {
		return
	}
	_ = c.in.Close()
	_ = c.cmd.Wait()
}

// do has the client do one thing, and returns what came of it.
func (c *client) do(format string, args ...any) string {
	c.t.Helper()
	c.begin(format, args...)
	return c.result()
}

func (c *client) begin(format string, args ...any) {
	c.t.Helper()
	if _, err := fmt.Fprintf(c.in, format+"\n", args...); err != nil {
		c.t.Fatalf("tell the client: %v", err)
	}
}

func (c *client) result() string {
	c.t.Helper()
	if !c.out.Scan() {
		c.t.Fatalf("the client ended: %v", c.out.Err())
	}
	return c.out.Text()
}

// want has the client do things, a line each, "WHAT => RESULT".
func (c *client) want(lines string) {
	c.t.Helper()
	for line := range strings.Lines(lines) {
		what, want, ok := strings.Cut(strings.TrimSpace(line), " => ")
		if !ok {
			continue
		}
		got := c.do("%s", what)
		if prefix, ok := strings.CutSuffix(want, "*"); ok && strings.HasPrefix(got, prefix) {
			continue
		}
		if got != want {
			c.t.Errorf("%s: got %q, want %q", what, got, want)
		}
	}
}

// sockets of the client process, by name.
type sockets map[string]int

func runClient(in io.Reader, out io.Writer) {
	s := make(sockets)
	lines := bufio.NewScanner(in)
	for lines.Scan() {
		got, err := s.step(strings.Fields(lines.Text()))
		if err != nil {
			got = "error " + err.Error()
			var no unix.Errno
			if errors.As(err, &no) {
				got = unix.ErrnoName(no)
			}
		}
		fmt.Fprintln(out, got)
	}
}

// step does one thing: VERB [SOCKET [ARGUMENT]].
func (s sockets) step(f []string) (string, error) {
	f = append(f, "", "", "")
	fd, arg := s[f[1]], f[2]
	switch f[0] {
	case "socket":
		fd, err := openSocket(arg)
		s[f[1]] = fd
		return "ok", err
	case "socketin": // in the network namespace at a path, which nothing else of the process is in
		fd, err := openSocketIn(f[3], arg)
		s[f[1]] = fd
		return "ok", err
	case "bind":
		return "ok", unix.BindToDevice(fd, arg)
	case "connect":
		return "ok", unix.Connect(fd, sockaddr(fd, arg))
	case "disconnect":
		return "ok", rawCall(unix.SYS_CONNECT, fd, nil, unix.RawSockaddrInet4{Family: unix.AF_UNSPEC})
	case "send":
		_, err := unix.Write(fd, []byte(question))
		return "ok", err
	case "sendto":
		return "ok", unix.Sendto(fd, []byte(question), 0, sockaddr(fd, arg))
	case "sendunspec": // a real send, on an AF_INET socket
		ap := netip.MustParseAddrPort(arg)
		return "ok", rawCall(unix.SYS_SENDTO, fd, []byte(question),
			unix.RawSockaddrInet4{Family: unix.AF_UNSPEC, Port: toBE16(ap.Port()), Addr: ap.Addr().As4()})
	case "sendcontrol": // connected, with a control message and no address
		ttl := unix.PktInfo4(&unix.Inet4Pktinfo{})
		return "ok", unix.Sendmsg(fd, []byte(question), ttl, nil, 0)
	case "recv":
		b := make([]byte, 512)
		n, from, err := unix.Recvfrom(fd, b, 0)
		for errors.Is(err, unix.EINTR) { // by a signal of the Go runtime: with a timeout the kernel does not go on
			n, from, err = unix.Recvfrom(fd, b, 0)
		}
		if err != nil {
			return "", err
		}
		if from == nil {
			return string(b[:n]), nil
		}
		return fmt.Sprintf("%s from %s", b[:n], showAddr(from)), nil
	case "peer":
		sa, err := unix.Getpeername(fd)
		return showAddr(sa), err
	case "name":
		sa, err := unix.Getsockname(fd)
		if err != nil {
			return "", err
		}
		ap, _ := netip.ParseAddrPort(showAddr(sa))
		return ap.Addr().String(), nil
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
	return s.pastHooks(f)
}

func openSocket(kind string) (int, error) {
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
	wait := unix.NsecToTimeval(int64(3 * time.Second))
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
		fd, err = openSocket(kind)
		return err
	})
	return fd, err
}

// sockaddr writes an address in the family of the socket: an IPv4 one is mapped for
// an AF_INET6 socket.
func sockaddr(fd int, s string) unix.Sockaddr {
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

func showAddr(sa unix.Sockaddr) string {
	switch a := sa.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(a.Addr), uint16(a.Port)).String()
	case *unix.SockaddrInet6:
		return netip.AddrPortFrom(netip.AddrFrom16(a.Addr), uint16(a.Port)).String()
	}
	return ""
}

// rawCall is sendto or connect with an address that package unix would not write.
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

// nth is the n-th of many nameservers, from a network that is nobody's.
func nth(n int) netip.Addr {
	return netip.AddrFrom4([4]byte{100, 64 + byte(n>>16), byte(n >> 8), byte(n)})
}

// churn does what Go's resolver does with the addresses it resolved: it connects,
// sends nothing and closes, COUNT times, to DISTINCT addresses in turn, from the FIRST on
// if that is given.
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
		err = unix.Connect(fd, &unix.SockaddrInet4{Port: 53, Addr: nth(from + i%of).As4()})
		_ = unix.Close(fd)
		if err != nil {
			return "", fmt.Errorf("after %d: %w", i, err)
		}
	}
	return fmt.Sprintf("ok %d", time.Since(start).Nanoseconds()/int64(n)), nil
}

// churnMPTCP is churn with COUNT sockets of MPTCP, each to another address.
func churnMPTCP(count string) (string, error) {
	n, err := strconv.Atoi(count)
	if err != nil {
		return "", err
	}
	for i := range n {
		fd, err := openSocket("mptcp4")
		if err != nil {
			return "", err
		}
		// After a signal of the Go runtime's the connect goes on by itself.
		err = ignore(unix.Connect(fd, &unix.SockaddrInet4{Port: 53, Addr: nth(i).As4()}), unix.EINTR)
		if err = firstError(err, func() error { return unix.Close(fd) }); err != nil {
			return "", err
		}
	}
	return "ok", nil
}

// connectRace connects one socket from as many threads as there are addresses.
func connectRace(fd int, addrs []string) error {
	var threads sync.WaitGroup
	for _, addr := range addrs {
		to := sockaddr(fd, addr)
		threads.Go(func() {
			for range 1000 {
				_ = unix.Connect(fd, to) // whichever comes last counts
			}
		})
	}
	threads.Wait()
	return nil
}

// drop closes COUNT sockets that hold kept.
func (s sockets) drop(name, count string) (string, error) {
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

// hold keeps COUNT connected sockets, each to another nameserver, and tells how many
// it got and why not more.
func (s sockets) hold(name, count string) (string, error) {
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
		err = unix.Connect(fd, &unix.SockaddrInet4{Port: 53, Addr: nth(i).As4()})
		var no unix.Errno
		if errors.As(err, &no) {
			return fmt.Sprintf("%d %s", i, unix.ErrnoName(no)), nil
		}
	}
	return fmt.Sprintf("%d ok", n), nil
}
