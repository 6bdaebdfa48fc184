// SPDX-License-Identifier: Apache-2.0

package network

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"sotto/internal/netlab"
	"sotto/internal/netlab/labtest"
	"sotto/internal/netns"
)

// netlinkOf opens a handle in a host of the lab, closed with the test.
func netlinkOf(t *testing.T, at *netlab.Host) *netlink.Handle {
	t.Helper()
	h, err := at.NS.Netlink()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(h.Close)
	return h
}

// testNetwork is the network of a host in the lab, with an echo server in it.
type testNetwork struct {
	*Network
	t    *testing.T
	at   *netlab.Host
	logs *labtest.LogBuffer
}

func openNetwork(t *testing.T, at *netlab.Host, cfg Config) (*Network, error) {
	t.Helper()
	var n *Network
	err := at.Do(func() (err error) {
		n, err = New(cfg)
		return err
	})
	if err == nil {
		t.Cleanup(func() {
			if err := n.Close(nil); err != nil {
				t.Errorf("close: %v", err)
			}
		})
	}
	return n, err
}

func testConfig(at *netlab.Host) Config {
	return Config{Name: at.Name + "-sotto", Link: "sotto", Prefix4: DefaultPrefix4, Prefix6: DefaultPrefix6}
}

func newTestNetwork(t *testing.T, at *netlab.Host) *testNetwork {
	t.Helper()
	logs := &labtest.LogBuffer{}
	cfg := testConfig(at)
	cfg.Log = slog.New(slog.NewTextHandler(logs, nil))
	n, err := openNetwork(t, at, cfg)
	if err != nil {
		t.Fatal(err)
	}
	if err := n.Ensure(); err != nil {
		t.Fatal(err)
	}
	tn := &testNetwork{Network: n, t: t, at: at, logs: logs}
	tn.echo("198.19.0.7:53")
	tn.echo("[fd73:6f74:746f::7]:53")
	return tn
}

// echo returns datagrams to addr inside the namespace until the test ends.
func (n *testNetwork) echo(addr string) {
	n.t.Helper()
	var pc net.PacketConn
	if err := n.Do(func() (err error) { pc, err = net.ListenPacket("udp", addr); return err }); err != nil {
		n.t.Fatal(err)
	}
	n.t.Cleanup(func() { pc.Close() })
	go func() {
		buf := make([]byte, 65535)
		for {
			m, from, err := pc.ReadFrom(buf)
			if err != nil {
				return
			}
			pc.WriteTo(buf[:m], from) // the test that waits for a lost answer fails
		}
	}()
}

// ask sends size bytes from a host, waits for the echo and returns the source address.
func ask(from *netlab.Host, addr string, size int) (net.IP, error) {
	var c net.Conn
	if err := from.Do(func() (err error) { c, err = net.Dial("udp", addr); return err }); err != nil {
		return nil, err
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(labtest.Patience(2 * time.Second)))
	out, in := bytes.Repeat([]byte("x"), size), make([]byte, 65535)
	if _, err := c.Write(out); err != nil {
		return nil, err
	}
	m, err := c.Read(in)
	if err != nil {
		return nil, err
	}
	if !bytes.Equal(in[:m], out) {
		return nil, fmt.Errorf("%d bytes returned, want %d", m, size)
	}
	return c.LocalAddr().(*net.UDPAddr).IP, nil
}

const (
	slot4 = "198.19.0.7:53"
	slot6 = "[fd73:6f74:746f::7]:53"
)

// whole returns what does not work.
func (n *testNetwork) whole() error {
	var errs []error
	for addr, want := range map[string]string{slot4: netlab.HostAddr4, slot6: netlab.HostAddr6} {
		if src, err := ask(n.at, addr, 64); err != nil {
			errs = append(errs, err)
		} else if src.String() != want {
			errs = append(errs, fmt.Errorf("the source address to %s is %s, want %s", addr, src, want))
		}
	}
	for _, p := range n.Prefixes() {
		if !hasRoute(n.t, n.host, p.String(), unix.RTN_UNREACHABLE) {
			errs = append(errs, fmt.Errorf("%s has no unreachable route", p))
		}
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if !n.hasName() {
		errs = append(errs, errors.New("the name refers to another namespace"))
	}
	return errors.Join(errs...)
}

// hasRoute reports whether the host's main table has a route of a type.
func hasRoute(t *testing.T, h *netlink.Handle, dst string, kind int) bool {
	t.Helper()
	routes, err := h.RouteList(nil, netlink.FAMILY_ALL)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range routes {
		if r.Dst != nil && r.Dst.String() == dst && r.Type == kind {
			return true
		}
	}
	return false
}

func TestReachesListener(t *testing.T) {
	l, host, _ := labtest.LAN(t)
	// A strict reverse path filter does not matter.
	if err := host.Sysctl("net/ipv4/conf/all/rp_filter", "1", "net/ipv4/conf/default/rp_filter", "1"); err != nil {
		t.Fatal(err)
	}
	containers := labtest.Containers(t, l, host, "c")
	n := newTestNetwork(t, host)
	if err := n.whole(); err != nil {
		t.Error(err)
	}
	for _, addr := range []string{slot4, slot6} {
		if _, err := ask(host, addr, 60000); err != nil {
			t.Errorf("60,000 bytes to %s: %v", addr, err)
		}
		for _, size := range []int{64, 1400} { // an answer is never larger than 1,232
			if _, err := ask(containers[0], addr, size); err != nil {
				t.Errorf("%d bytes from a container to %s: %v", size, addr, err)
			}
		}
	}
	for _, name := range []string{n.hostIf(), n.innerIf()} {
		h := n.host
		if name == n.innerIf() {
			h = n.inner
		}
		link, err := h.LinkByName(name)
		if err != nil {
			t.Fatal(err)
		}
		if addrs, err := h.AddrList(link, netlink.FAMILY_ALL); err != nil || len(addrs) != 0 {
			t.Errorf("%s has the addresses %v, %v; want none", name, addrs, err)
		}
	}
}

func TestCloseLeavesNothing(t *testing.T) {
	_, host, _ := labtest.LAN(t)
	before := hostState(t, host)
	n := newTestNetwork(t, host)
	if hostState(t, host) == before {
		t.Fatal("this test would not detect leftovers")
	}
	for range 2 {
		if err := n.Close(nil); err != nil {
			t.Fatal(err)
		}
	}
	if after := hostState(t, host); after != before {
		t.Errorf("leftovers:\n%s\nwant:\n%s", after, before)
	}
	if _, err := os.Lstat(netns.Path(n.cfg.Name)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the name was not removed: %v", err)
	}
	if err := n.Ensure(); !errors.Is(err, ErrClosed) {
		t.Errorf("ensure after close: %v", err)
	}
	if err := n.Do(func() error { return nil }); !errors.Is(err, ErrClosed) {
		t.Errorf("do after close: %v", err)
	}
}

// hostState lists the links of a host and the routes that matter.
func hostState(t *testing.T, at *netlab.Host) string {
	t.Helper()
	links, err := netlinkOf(t, at).LinkList()
	if err != nil {
		t.Fatal(err)
	}
	routes, err := netlinkOf(t, at).RouteListFiltered(netlink.FAMILY_ALL, &netlink.Route{}, netlink.RT_FILTER_TABLE)
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	for _, l := range links {
		fmt.Fprintf(&b, "%s %s\n", l.Attrs().Name, l.Type())
	}
	for _, r := range routes {
		// The kernel adds local IPv6 routes with a delay.
		if r.Table == unix.RT_TABLE_MAIN || r.Dst.IP.To4() != nil {
			fmt.Fprintln(&b, r)
		}
	}
	return b.String()
}

// While the link is missing the prefix is unreachable: no packet to it follows the default
// route.
func TestFailsClosed(t *testing.T) {
	_, host, _ := labtest.LAN(t)
	n := newTestNetwork(t, host)
	if err := removeLinks(n.host, n.hostIf()); err != nil {
		t.Fatal(err)
	}
	for _, addr := range []string{slot4, slot6} {
		if _, err := ask(host, addr, 64); !errors.Is(err, syscall.EHOSTUNREACH) {
			t.Errorf("query to %s: %v, want EHOSTUNREACH", addr, err)
		}
	}
	if err := n.Ensure(); err != nil {
		t.Fatal(err)
	}
	if err := n.whole(); err != nil {
		t.Error(err)
	}
}

// isLinkLocalAddress reports whether an event is about a link-local address: the kernel adds
// one to each new interface with a delay.
func isLinkLocalAddress(m syscall.NetlinkMessage) bool {
	return (m.Header.Type == unix.RTM_NEWADDR) && len(m.Data) >= unix.SizeofIfAddrmsg && m.Data[3] == unix.RT_SCOPE_LINK
}

// If nothing is missing, Ensure changes nothing: it causes no event.
func TestEnsureIsIdempotent(t *testing.T) {
	_, host, _ := labtest.LAN(t)
	n := newTestNetwork(t, host)
	n.takeRepairs()
	for _, at := range []*netns.NS{n.home, n.ns} {
		sock, err := subscribe(at)
		if err != nil {
			t.Fatal(err)
		}
		defer sock.Close()
		for range 3 {
			if err := n.Ensure(); err != nil {
				t.Fatal(err)
			}
		}
		// The kernel queues the events of a change before the change returns.
		if err := sock.SetReceiveTimeout(&unix.Timeval{Usec: 100_000}); err != nil {
			t.Fatal(err)
		}
		for {
			msgs, _, err := sock.Receive()
			if errors.Is(err, unix.EAGAIN) {
				break
			}
			msgs = slices.DeleteFunc(msgs, isLinkLocalAddress)
			if err != nil || len(msgs) > 0 {
				t.Errorf("an idle Ensure caused %d events (%v): %+v", len(msgs), err, msgs)
			}
		}
	}
	if made := n.takeRepairs(); len(made) > 0 {
		t.Errorf("an idle Ensure repaired %v", made)
	}
}

// keepRunning runs the network until the test ends.
func (n *testNetwork) keepRunning() {
	n.t.Helper()
	ctx, cancel := context.WithCancel(n.t.Context())
	done := make(chan error, 1)
	go func() { done <- n.Run(ctx) }()
	n.t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			n.t.Errorf("run: %v", err)
		}
	})
}
