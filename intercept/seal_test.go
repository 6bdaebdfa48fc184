// SPDX-License-Identifier: Apache-2.0

package intercept

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
	"golang.org/x/sys/unix"

	"sotto/intercept/clienttest"
	"sotto/intercept/historytest"
	"sotto/internal/netlab"
	"sotto/internal/netlab/labtest"
)

func TestMain(m *testing.M) {
	switch os.Getenv(clienttest.EnvVar) {
	case "client":
		clienttest.Main(historytest.Command)
		os.Exit(0)
	case "seal":
		runSealer()
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// testSeal is an instance in a lab, with a listener that answers "ORIGIN by WORKLOAD".
type testSeal struct {
	*Instance
	lab       *netlab.Lab
	host, lan *netlab.Host
	group     *netlab.Cgroup

	stopListening func()
}

// sealTestConfig returns a configuration for a cgroup of the lab, with a name and directories
// of its own.
func sealTestConfig(t testing.TB, group *netlab.Cgroup) Config {
	t.Helper()
	cfg := testConfig(t)
	cfg.Cgroups = []string{group.Path}
	return cfg
}

// testConfig is sealTestConfig without cgroups.
func testConfig(t testing.TB) Config {
	t.Helper()
	cfg := Config{
		Name:    fmt.Sprintf("sotto-t%d", os.Getpid()%1000000),
		Prefix4: netip.MustParsePrefix("198.18.252.0/22"), Prefix6: netip.MustParsePrefix("fd73:6f74:746f:fff::/64"),
		RunDir: t.TempDir(), BPFFS: t.TempDir(),
	}
	// Open mounts it. MNT_DETACH, because an interrupted test may still have it open.
	t.Cleanup(func() { _ = unix.Unmount(cfg.BPFFS, unix.MNT_DETACH) })
	return cfg
}

// openSeal opens and attaches an instance for a cgroup of a new lab.
func openSeal(t testing.TB, change func(*Config)) *testSeal {
	t.Helper()
	return openSealed(t, change, nil)
}

// openSealed is openSeal with a function that is called before Attach.
func openSealed(t testing.TB, change func(*Config), before func(*Instance)) *testSeal {
	t.Helper()
	s := &testSeal{}
	s.lab, s.host, s.lan = labtest.LAN(t)
	var err error
	if s.group, err = s.lab.Cgroup("work"); err != nil {
		t.Fatal(err)
	}
	cfg := sealTestConfig(t, s.group)
	if change != nil {
		change(&cfg)
	}
	s.Instance = openAt(t, s.host, cfg)
	s.stopListening = listen(t, s.Instance)
	if before != nil {
		before(s.Instance)
	}
	if err := s.Attach(); err != nil {
		t.Fatal(err)
	}
	return s
}

// openAt opens an instance on a host of the lab, until the end of the test.
func openAt(t testing.TB, at *netlab.Host, cfg Config) *Instance {
	t.Helper()
	var i *Instance
	err := at.Do(func() (err error) {
		i, err = Open(t.Context(), cfg)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := i.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return i
}

// run runs the instance until stop is called or the test ends. Close may be called after that.
func (s *testSeal) run(t *testing.T) (stop func()) {
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := s.Run(ctx); err != nil {
			t.Errorf("run: %v", err)
		}
	})
	stop = func() { cancel(); wg.Wait() }
	t.Cleanup(stop)
	return stop
}

// client starts a client in the sealed cgroup.
func (s *testSeal) client(t *testing.T) *clienttest.Client {
	t.Helper()
	return clienttest.Start(t, s.host, s.group)
}

// about returns the listener's answer to a client in the sealed cgroup.
func (s *testSeal) about(origin string) string {
	return origin + " by /" + filepath.Base(s.group.Path)
}

// listen starts a listener in the instance's namespace. It runs until stop is called or the
// test ends.
func listen(t testing.TB, i *Instance) (stop func()) {
	t.Helper()
	return listenWith(t, i, func(local net.IP, _ net.Addr) []byte {
		addr, _ := netip.AddrFromSlice(local)
		o, ok := i.Origin(addr)
		if !ok {
			return []byte("no origin of " + local.String())
		}
		workload, _ := i.Workload(o.CgroupID)
		return fmt.Appendf(nil, "%s by %s", o.Addr, workload)
	})
}

// answerFunc returns the answer to a query that a client sent to a virtual address.
type answerFunc func(local net.IP, client net.Addr) []byte

// listenWith is listen with other answers.
func listenWith(t testing.TB, i *Instance, answer answerFunc) (stop func()) {
	t.Helper()
	var conns []io.Closer
	err := i.Do(func() error {
		u4, err := net.ListenPacket("udp4", ":53")
		if err != nil {
			return err
		}
		u6, err := net.ListenPacket("udp6", ":53")
		if err != nil {
			return err
		}
		tcp, err := net.Listen("tcp", ":53")
		if err != nil {
			return err
		}
		conns = append(conns, u4, u6, tcp)
		go serve4(ipv4.NewPacketConn(u4), answer)
		go serve6(ipv6.NewPacketConn(u6), answer)
		go serveTCP(tcp, answer)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	stop = func() {
		for _, c := range conns {
			_ = c.Close() // the second time fails
		}
	}
	t.Cleanup(stop)
	return stop
}

func serve4(c *ipv4.PacketConn, answer answerFunc) {
	_ = c.SetControlMessage(ipv4.FlagDst, true)
	b := make([]byte, 512)
	for {
		_, cm, from, err := c.ReadFrom(b)
		if err != nil {
			return
		}
		_, _ = c.WriteTo(answer(cm.Dst, from), &ipv4.ControlMessage{Src: cm.Dst}, from)
	}
}

func serve6(c *ipv6.PacketConn, answer answerFunc) {
	_ = c.SetControlMessage(ipv6.FlagDst, true)
	b := make([]byte, 512)
	for {
		_, cm, from, err := c.ReadFrom(b)
		if err != nil {
			return
		}
		_, _ = c.WriteTo(answer(cm.Dst, from), &ipv6.ControlMessage{Src: cm.Dst}, from)
	}
}

func serveTCP(l net.Listener, answer answerFunc) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			defer c.Close()
			b := make([]byte, 512)
			if _, err := c.Read(b); err == nil {
				_, _ = c.Write(answer(c.LocalAddr().(*net.TCPAddr).IP, c.RemoteAddr()))
			}
		}()
	}
}

// slotsUsed returns the number of slots in use, and of references to them.
func (s *testSeal) slotsUsed(t *testing.T) (used, refs int) {
	t.Helper()
	used, refs, err := s.kernel.slotsUsed()
	if err != nil {
		t.Fatal(err)
	}
	return used, refs
}

// slotsUsed is testSeal.slotsUsed.
func (k *kernel) slotsUsed() (used, refs int, err error) {
	var idx uint32
	var slot struct{ Lock, Used, Refs, Zero, Last1, Last2 uint32 }
	it := k.Slots.Iterate()
	for it.Next(&idx, &slot) {
		used += int(slot.Used)
		refs += int(slot.Refs)
	}
	return used, refs, it.Err()
}

// sealOrder is the part of a Config that is passed to a sealing process.
type sealOrder struct {
	Name             string
	Ephemeral        bool
	Cgroups, Exclude []string
	Prefix4, Prefix6 netip.Prefix
	RunDir, BPFFS    string
}

// startSealer starts a process that seals according to cfg and waits to be killed.
func startSealer(t *testing.T, at *netlab.Host, cfg Config) *netlab.Cmd {
	t.Helper()
	order, err := json.Marshal(sealOrder{cfg.Name, cfg.Ephemeral, cfg.Cgroups, cfg.Exclude, cfg.Prefix4, cfg.Prefix6, cfg.RunDir, cfg.BPFFS})
	if err != nil {
		t.Fatal(err)
	}
	cmd := at.Command(t.Context(), nil, os.Args[0])
	cmd.Env = append(os.Environ(), clienttest.EnvVar+"=seal")
	cmd.Stdin = bytes.NewReader(order)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { kill(cmd) })
	lines := bufio.NewScanner(out)
	if lines.Scan(); lines.Text() != "sealed" {
		t.Fatalf("output of the sealing process: %s", lines.Text())
	}
	return cmd
}

// kill kills a process that this test started. It is idempotent.
func kill(cmd *netlab.Cmd) {
	if cmd.ProcessState == nil {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}
}

// runSealer is the main function of that process.
func runSealer() {
	var o sealOrder
	err := json.NewDecoder(os.Stdin).Decode(&o)
	if err == nil {
		err = sealAndWait(Config{Name: o.Name, Ephemeral: o.Ephemeral, Cgroups: o.Cgroups, Exclude: o.Exclude,
			Prefix4: o.Prefix4, Prefix6: o.Prefix6, RunDir: o.RunDir, BPFFS: o.BPFFS})
	}
	fmt.Println(strings.ReplaceAll(err.Error(), "\n", " "))
}

func sealAndWait(cfg Config) error {
	i, err := Open(context.Background(), cfg)
	if err != nil {
		return err
	}
	if err := i.Attach(); err != nil {
		return errors.Join(err, i.Close())
	}
	fmt.Println("sealed")
	time.Sleep(time.Minute) // it is killed before
	return errors.New("it was not killed")
}
