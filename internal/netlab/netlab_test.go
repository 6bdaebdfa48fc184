// SPDX-License-Identifier: Apache-2.0

package netlab_test

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"sotto/internal/netlab"
	"sotto/internal/netlab/labtest"
	"sotto/internal/netns"
)

// sourceAt sends a datagram from a host to a nameserver address in lan and returns its
// source address as received there.
func sourceAt(t *testing.T, from, lan *netlab.Host, addr string) net.IP {
	t.Helper()
	var server net.PacketConn
	var client net.Conn
	err := lan.Do(func() (err error) {
		server, err = net.ListenPacket("udp", net.JoinHostPort(addr, "53"))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	err = from.Do(func() (err error) {
		client, err = net.Dial("udp", net.JoinHostPort(addr, "53"))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	if _, err := client.Write([]byte("ping")); err != nil {
		t.Fatal(err)
	}
	if err := server.SetDeadline(time.Now().Add(labtest.Patience(5 * time.Second))); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 16)
	n, src, err := server.ReadFrom(buf)
	if err != nil || string(buf[:n]) != "ping" {
		t.Fatalf("%s received %q, %v", addr, buf[:n], err)
	}
	return src.(*net.UDPAddr).IP
}

func TestLAN(t *testing.T) {
	_, host, lan := labtest.LAN(t)
	for _, addr := range netlab.Nameservers {
		want := netlab.HostAddr4
		if strings.Contains(addr, ":") {
			want = netlab.HostAddr6
		}
		if got := sourceAt(t, host, lan, addr); got.String() != want {
			t.Errorf("%s received a packet from %s, want %s", addr, got, want)
		}
	}
	// The LAN has no route to addresses other than its own.
	for _, addr := range []string{"203.0.113.9:53", "[2001:db8:ffff::9]:53"} {
		err := lan.Do(func() error {
			c, err := net.Dial("udp", addr)
			if err == nil {
				c.Close()
			}
			return err
		})
		if !errors.Is(err, syscall.ENETUNREACH) {
			t.Errorf("the lan dials %s: %v, want ENETUNREACH", addr, err)
		}
	}
}

func TestContainersAreMasqueraded(t *testing.T) {
	l, host, lan := labtest.LAN(t)
	for _, c := range labtest.Containers(t, l, host, "c1", "c2") {
		if got := sourceAt(t, c, lan, "8.8.8.8"); got.String() != netlab.HostAddr4 {
			t.Errorf("%s: source address %s, want the host's %s", c.Name, got, netlab.HostAddr4)
		}
		if got := sourceAt(t, c, lan, "2001:db8::53"); got.String() != netlab.HostAddr6 {
			t.Errorf("%s: source address %s, want the host's %s", c.Name, got, netlab.HostAddr6)
		}
	}
}

func TestCommandAndCgroup(t *testing.T) {
	group := labtest.NewCgroup(t)
	l := labtest.New(t)
	host := labtest.Host(t, l, "h")
	out, err := host.Command(t.Context(), group, "sh", "-c", "readlink /proc/self/ns/net; cat /proc/self/cgroup; echo err >&2").Output()
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{fmt.Sprintf("net:[%d]", host.NS.ID().Ino), "0::/" + filepath.Base(group.Path)} {
		if !strings.Contains(string(out), want) {
			t.Errorf("the process printed %q, want %q in it", out, want)
		}
	}
	if strings.Contains(string(out), "err") {
		t.Error("the output contains standard error")
	}
	out, err = host.Command(t.Context(), nil, "sh", "-c", "echo out; echo err >&2; exit 3").CombinedOutput()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != 3 || string(out) != "out\nerr\n" {
		t.Errorf("CombinedOutput: %q, %v", out, err)
	}
}

// TestCloseRemoves checks that Close removes namespaces and cgroups that are in use, and
// that New removes the lab of a dead process.
func TestCloseRemoves(t *testing.T) {
	labtest.NeedRoot(t)
	l, err := netlab.New()
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	host, err := l.Host("h")
	if err != nil {
		t.Fatal(err)
	}
	group, err := l.Cgroup("c")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := l.Below(group, "inner"); err != nil {
		t.Fatal(err)
	}
	sleeper := host.Command(t.Context(), group, "sleep", "60")
	if err := sleeper.Start(); err != nil {
		t.Fatal(err)
	}
	reaped := make(chan error, 1)
	go func() { reaped <- sleeper.Wait() }()
	if err := l.Close(); err != nil {
		t.Error(err)
	}
	if err := <-reaped; err == nil {
		t.Error("the process was not killed")
	}
	if err := l.Close(); err != nil {
		t.Errorf("second Close: %v", err)
	}
	checkRemoved(t, netns.Path(host.Name), group.Path)

	// A process that has exited.
	dead := exec.Command("true")
	if err := dead.Run(); err != nil {
		t.Fatal(err)
	}
	name := strings.Replace(host.Name, fmt.Sprintf("-%d.", os.Getpid()), fmt.Sprintf("-%d.", dead.Process.Pid), 1)
	ns, err := netns.New(name)
	if err != nil {
		t.Fatal(err)
	}
	ns.Close()
	stale := filepath.Join(filepath.Dir(group.Path), name)
	if err := os.MkdirAll(filepath.Join(stale, "inner"), 0o755); err != nil {
		t.Fatal(err)
	}
	labtest.New(t)
	checkRemoved(t, netns.Path(name), stale)
}

func checkRemoved(t *testing.T, paths ...string) {
	t.Helper()
	for _, p := range paths {
		if _, err := os.Lstat(p); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s still exists: %v", p, err)
		}
	}
}
