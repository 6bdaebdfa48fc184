// SPDX-License-Identifier: Apache-2.0

package intercept

import (
	"bytes"
	"log/slog"
	"net"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"sotto/intercept/clienttest"
	"sotto/internal/capture"
	"sotto/internal/netlab"
	"sotto/internal/netlab/labtest"
)

// Attach destroys exactly the sockets that were connected to a nameserver before the seal, also
// in other network namespaces. Their programs connect again, sealed.
func TestDestroysPlainSockets(t *testing.T) {
	s := &testSeal{}
	s.lab, s.host, s.lan = labtest.LAN(t)
	s.group = s.unsealed(t, "work")
	excluded, err := s.lab.Below(s.group, "excluded")
	if err != nil {
		t.Fatal(err)
	}
	beyond := labtest.Host(t, s.lab, "beyond")
	if err := s.lab.Wire(s.host, "beyond0", beyond, "eth0"); err != nil {
		t.Fatal(err)
	}
	if err := beyond.Addr("eth0", "10.78.0.2/24"); err != nil {
		t.Fatal(err)
	}
	if err := beyond.Route("0.0.0.0/0", "10.78.0.1"); err != nil {
		t.Fatal(err)
	}
	acceptTCP(t, s.lan, ":53")
	const connect = `
		socket a udp4 => ok
		connect a 8.8.8.8:53 => ok
		socket b udp6 => ok
		connect b [2001:db8::53]:53 => ok
		socket m udp6 => ok
		connect m [::ffff:8.8.8.8]:53 => ok
		socket c tcp4 => ok
		connect c 8.8.8.8:53 => ok
		socket d udp4 => ok
		connect d 8.8.8.8:54 => ok
		socket e udp4 => ok
		connect e 127.0.0.53:53 => ok`
	own, others := s.client(t), clienttest.Start(t, s.host, s.unsealed(t, "other"))
	open := clienttest.Start(t, s.host, excluded)
	for _, c := range []*clienttest.Client{own, others, open} {
		c.Want(connect)
	}
	far := clienttest.Start(t, beyond, s.group)
	far.Want("socket a udp4 => ok\nconnect a 8.8.8.8:53 => ok")

	cfg := sealTestConfig(t, s.group)
	cfg.Exclude = []string{excluded.Path}
	s.Instance = openAt(t, s.host, cfg)
	listen(t, s.Instance)
	var ports []string // only of sealed sockets
	for _, socket := range []string{"a", "b", "m", "c"} {
		ports = append(ports, own.Do("port "+socket))
	}
	wire, err := capture.Start(s.lan.NS, netlab.LANIf)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Attach(); err != nil {
		t.Fatal(err)
	}
	const ended = "recv a => ECONNABORTED\n"
	own.Want(ended + `
		recv b => ECONNABORTED
		recv m => ECONNABORTED
		recv c => ECONNABORTED
		peer d => 8.8.8.8:54
		peer e => 127.0.0.53:53`)
	far.Want(ended)
	for _, c := range []*clienttest.Client{others, open} {
		c.Want(`
			peer a => 8.8.8.8:53
			peer b => [2001:db8::53]:53
			peer c => 8.8.8.8:53`)
	}
	own.Want("connect a 8.8.8.8:53 => ok\nsend a => ok\nrecv a => " + s.about("8.8.8.8:53") + " from 8.8.8.8:53")
	packets, err := wire.Stop()
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range packets {
		if slices.Contains(ports, strconv.Itoa(int(p.Src.Port()))) {
			t.Errorf("left the machine: %v", p)
		}
	}
}

// With OpenAfter the seal opens that long after the last heartbeat, and closes with the next
// one.
func TestOpenAfter(t *testing.T) {
	after := labtest.Patience(minOpenAfter)
	s := openSeal(t, func(cfg *Config) { cfg.OpenAfter = after })
	c := s.client(t)
	sealed := "sendto a 8.8.8.8:53 => ok\nrecv a => " + s.about("8.8.8.8:53") + " from 8.8.8.8:53\n"
	c.Want("socket a udp4 => ok\n" + sealed + "socket r raw4 => ok\nrawto r 8.8.8.8:53 => EPERM")
	silence(t, s, after+time.Second)
	if n := s.crossed(t, func() {
		c.Want("rawto r 8.8.8.8:53 => ok\nframe eth0 8.8.8.8:53 => ok\nsendto a 8.8.8.8:53 => ok")
	}); n != 3 {
		t.Errorf("%d packets left without a heartbeat, want 3", n)
	}
	if n := s.Counters()["open"]; n == 0 {
		t.Error("nothing was counted as let through")
	}
	if err := s.Heartbeat(); err != nil {
		t.Fatal(err)
	}
	c.Want("rawto r 8.8.8.8:53 => EPERM\n" + sealed)
}

// By default the seal stays closed without a heartbeat.
func TestStaysClosedWithoutHeartbeat(t *testing.T) {
	s := openSeal(t, nil)
	silence(t, s, 24*time.Hour)
	s.wire(t)
	s.client(t).Want("socket r raw4 => ok\nrawto r 8.8.8.8:53 => EPERM\nsocket a udp4 => ok\nsendto a 8.8.8.8:53 => ok\n" +
		"recv a => " + s.about("8.8.8.8:53") + " from 8.8.8.8:53")
}

// silence moves the last heartbeat into the past.
func silence(t *testing.T, s *testSeal, ago time.Duration) {
	t.Helper()
	var state sottoGuard
	if err := s.kernel.Daemon.Lookup(uint32(0), &state); err != nil {
		t.Fatal(err)
	}
	state.Alive -= uint64(ago)
	if err := s.kernel.Daemon.Put(uint32(0), state); err != nil {
		t.Fatal(err)
	}
}

// Run writes heartbeats.
func TestHeartbeat(t *testing.T) {
	s := openSeal(t, nil)
	alive := func() uint64 {
		var state sottoGuard
		if err := s.kernel.Daemon.Lookup(uint32(0), &state); err != nil {
			t.Fatal(err)
		}
		return state.Alive
	}
	was := alive()
	s.run(t)
	for end := time.Now().Add(labtest.Patience(10 * time.Second)); alive() == was; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("there is no heartbeat")
		}
	}
}

// Stopped packets are logged once, by reason; packets that were only counted are logged as such.
func TestGuardReport(t *testing.T) {
	for mode, want := range map[GuardMode]string{GuardDrop: "dropped", GuardCount: "left in the clear"} {
		var text bytes.Buffer
		s := openSeal(t, func(cfg *Config) { cfg.Guard, cfg.Log = mode, slog.New(slog.NewTextHandler(&text, nil)) })
		text.Reset() // of what the start logged
		s.client(t).Want("frame eth0 8.8.8.8:53 => " + map[GuardMode]string{GuardDrop: "ENOBUFS", GuardCount: "ok"}[mode])
		last := s.report(map[string]uint64{})
		if got := text.String(); strings.Count(got, "\n") != 1 || !strings.Contains(got, want) || !strings.Contains(got, "counter=stopped_packet count=1") {
			t.Errorf("mode %d: logged %q", mode, got)
		}
		text.Reset()
		s.report(last)
		if text.Len() > 0 {
			t.Errorf("mode %d: logged again %q", mode, text.String())
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// After a kill the guard is still attached. The next start adopts it, and down removes it. Other
// programs on the interfaces are not affected.
func TestGuardAfterKill(t *testing.T) { bothWays(t, testGuardAfterKill) }

func testGuardAfterKill(t *testing.T, s *testSeal) {
	filters := s.guard.UsesFilters()
	h, err := s.host.NS.Netlink()
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	eth0, err := h.LinkByName("eth0")
	if err != nil {
		t.Fatal(err)
	}
	index := eth0.Attrs().Index
	// A filter of another program, in a clsact that may exist already.
	clsact := &netlink.Clsact{QdiscAttrs: netlink.QdiscAttrs{LinkIndex: index, Handle: netlink.MakeHandle(0xffff, 0), Parent: netlink.HANDLE_CLSACT}}
	if err := h.QdiscAdd(clsact); err != nil && !filters {
		t.Fatal(err)
	}
	others := &netlink.BpfFilter{
		FilterAttrs: netlink.FilterAttrs{LinkIndex: index, Parent: netlink.HANDLE_MIN_EGRESS, Handle: 7, Protocol: unix.ETH_P_ALL, Priority: 1},
		Fd:          s.kernel.SottoCollect.FD(), Name: "others", DirectAction: true,
	}
	if err := h.FilterReplace(others); err != nil {
		t.Fatal(err)
	}
	s.guard.Reconcile() // the other filter was first, and lets everything through
	if err := s.Abandon(); err != nil {
		t.Fatal(err)
	}
	s.wire(t)
	c := s.client(t)
	const stopped = "frame eth0 8.8.8.8:53 => ENOBUFS"
	c.Want(stopped)
	next := openAt(t, s.host, s.cfg)
	if filters {
		next.guard.UseFilters()
	}
	if err := next.Attach(); err != nil {
		t.Fatal(err)
	}
	c.Want(stopped)
	if n := next.Counters()["stopped_packet"]; n != 2 {
		t.Errorf("stopped %d before and after the next start, want 2", n)
	}
	if err := next.Abandon(); err != nil {
		t.Fatal(err)
	}
	if err := downAt(s.host, s.cfg); err != nil {
		t.Fatal(err)
	}
	nothingLeft(t, s.host, s.cfg)
	for parent, want := range map[uint32]int{netlink.HANDLE_MIN_EGRESS: 1, netlink.HANDLE_MIN_INGRESS: 0} {
		if left, err := h.FilterList(eth0, parent); err != nil || len(left) != want {
			t.Errorf("leftover filters: %v, %v", left, err)
		}
	}
	qdiscs, err := h.QdiscList(eth0)
	if err != nil || !slices.ContainsFunc(qdiscs, func(q netlink.Qdisc) bool { return q.Type() == "clsact" }) {
		t.Errorf("clsact was removed with the filter of another program: %v, %v", qdiscs, err)
	}
}

// acceptTCP accepts connections, and closes them when the test ends.
func acceptTCP(t *testing.T, at *netlab.Host, addr string) {
	t.Helper()
	var l net.Listener
	quiet := net.ListenConfig{KeepAlive: -1} // on a slow machine, probes would be answered before the seal
	if err := at.Do(func() (err error) { l, err = quiet.Listen(t.Context(), "tcp", addr); return err }); err != nil {
		t.Fatal(err)
	}
	accepted := make(chan []net.Conn, 1)
	t.Cleanup(func() {
		_ = l.Close()
		for _, c := range <-accepted {
			_ = c.Close()
		}
	})
	go func() {
		var all []net.Conn
		for {
			c, err := l.Accept()
			if err != nil {
				accepted <- all
				return
			}
			all = append(all, c)
		}
	}()
}
