// SPDX-License-Identifier: Apache-2.0

package intercept

import (
	"bufio"
	"bytes"
	"fmt"
	"net/netip"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"sotto/intercept/clienttest"
	"sotto/intercept/network"
	"sotto/internal/netlab"
	"sotto/internal/netlab/labtest"
	"sotto/internal/netns"
)

// relayed is a script of a container's client. It sees the nameservers that it asked, whatever
// program forwards its packets.
const relayed = `
	socket a udp4 => ok
	sendto a 8.8.8.8:53 => ok
	recv a => 8.8.8.8:53W from 8.8.8.8:53
	sendto a 8.8.4.4:53 => ok
	recv a => 8.8.4.4:53W from 8.8.4.4:53
	socket b udp4 => ok
	connect b 8.8.8.8:53 => ok
	send b => ok
	recv b => 8.8.8.8:53W from 8.8.8.8:53
	peer b => 8.8.8.8:53
	socket c tcp4 => ok
	connect c 8.8.8.8:53 => ok
	send c => ok
	recv c => 8.8.8.8:53W
	socket d udp6 => ok
	connect d [2001:db8::53]:53 => ok
	send d => ok
	recv d => [2001:db8::53]:53W from [2001:db8::53]:53
	socket e tcp6 => ok
	connect e [2001:db8::53]:53 => ok
	send e => ok
	recv e => [2001:db8::53]:53W
	socket f udp6 => ok
	connect f [::ffff:8.8.8.8]:53 => ok
	send f => ok
	recv f => 8.8.8.8:53W from [::ffff:8.8.8.8]:53
	peer f => [::ffff:8.8.8.8]:53`

// withCgroups seals a cgroup with others below it, by their paths. They are removed with the lab.
func withCgroups(t *testing.T, change func(*Config, map[string]*netlab.Cgroup), paths ...string) (*testSeal, map[string]*netlab.Cgroup) {
	t.Helper()
	s := &testSeal{}
	s.lab, s.host, s.lan = labtest.LAN(t)
	s.group = s.unsealed(t, "work")
	groups := map[string]*netlab.Cgroup{"": s.group}
	for _, path := range paths {
		parent := strings.TrimSuffix(strings.TrimSuffix(path, filepath.Base(path)), "/")
		g, err := s.lab.Below(groups[parent], filepath.Base(path))
		if err != nil {
			t.Fatal(err)
		}
		groups[path] = g
	}
	cfg := sealTestConfig(t, s.group)
	if change != nil {
		change(&cfg, groups)
	}
	s.Instance = openAt(t, s.host, cfg)
	listen(t, s.Instance)
	if err := s.Attach(); err != nil {
		t.Fatal(err)
	}
	s.run(t)
	return s, groups
}

// A process of the same user may send to the virtual addresses of a container, and gets its
// replies from them. A process of another user may not.
func TestRelay(t *testing.T) {
	s, groups := withCgroups(t, func(cfg *Config, groups map[string]*netlab.Cgroup) { cfg.Exclude = []string{groups["excluded"].Path} },
		"user-1001.slice", "user-1001.slice/container", "user-1001.slice/relay", "user-1002.slice", "user-1002.slice/relay", "excluded")
	s.wire(t)
	container := clienttest.Start(t, s.host, groups["user-1001.slice/container"])
	relay := clienttest.Start(t, s.host, groups["user-1001.slice/relay"])
	container.Want("socket a udp4 => ok\nsendto a 8.8.8.8:53 => ok\nsocket b udp6 => ok\nsendto b [2001:db8::53]:53 => ok")
	four, six := s.slotAddr(0), netip.AddrPortFrom(network.NthAddr(s.cfg.Prefix6, network.FirstSlot+1), 53).String()
	relay.Want("socket a udp4 => ok")
	labtest.Eventually(t, func() error { // the first workload of a user is reported in the background
		if got := relay.Do("sendto a %s", four); got != "ok" {
			return fmt.Errorf("a relay of the same user: %s", got)
		}
		return nil
	})
	script := strings.NewReplacer("FOUR", four, "SIX", six, "W", s.about("")+"/user-1001.slice/container", "R", s.about("")+"/user-1001.slice/relay").Replace(`
		recv a => 8.8.8.8:53W from FOUR
		socket b udp4 => ok
		connect b FOUR => ok
		send b => ok
		recv b => 8.8.8.8:53W from FOUR
		peer b => FOUR
		socket c tcp4 => ok
		connect c FOUR => ok
		send c => ok
		recv c => 8.8.8.8:53W
		peer c => FOUR
		socket d udp6 => ok
		sendto d SIX => ok
		recv d => [2001:db8::53]:53W from SIX
		socket e tcp6 => ok
		connect e SIX => ok
		send e => ok
		recv e => [2001:db8::53]:53W
		sendto a 8.8.4.4:53 => ok
		recv a => 8.8.4.4:53R from 8.8.4.4:53`)
	relay.Want(script)
	clienttest.Start(t, s.host, groups["user-1002.slice/relay"]).Want(strings.NewReplacer("FOUR", four, "SIX", six, "ERR", refusal()).Replace(`
		socket a udp4 => ok
		sendto a FOUR => ERR
		connect a FOUR => ERR
		socket b udp6 => ok
		sendto b SIX => ERR
		socket c tcp4 => ok
		connect c FOUR => ERR`))
	clienttest.Start(t, s.host, groups["excluded"]).Want(strings.NewReplacer("FOUR", four, "W", s.about("")+"/user-1001.slice/container").Replace(`
		socket a udp4 => ok
		sendto a FOUR => ok
		recv a => 8.8.8.8:53W from FOUR
		socket b tcp4 => ok
		connect b FOUR => ok
		send b => ok
		recv b => 8.8.8.8:53W
		peer b => FOUR`))
}

// The hooks of an outer cgroup do not take a client for a relay because those of an inner one
// have already written a virtual address.
func TestNestedCgroups(t *testing.T) {
	s, groups := withCgroups(t, func(cfg *Config, groups map[string]*netlab.Cgroup) {
		cfg.Cgroups = append(cfg.Cgroups, groups["inner"].Path, groups["inner/innermost"].Path)
	}, "inner", "inner/innermost")
	s.wire(t)
	c := clienttest.Start(t, s.host, groups["inner/innermost"])
	c.Want(strings.ReplaceAll(relayed, "W", s.about("")+"/inner/innermost"))
}

// The container of a real relay is answered, whichever cgroup the relay is in.
func TestUserModeNetworking(t *testing.T) {
	for _, program := range []string{"slirp4netns", "pasta"} {
		for name, relay := range map[string]string{
			"same cgroup": "user-1001.slice/container", "same user": "user-1001.slice/relay", "excluded": "excluded", "not sealed": "",
		} {
			t.Run(program+", "+name, func(t *testing.T) { testUserMode(t, program, relay) })
		}
	}
}

// rootless creates a user and a network namespace in a cgroup, as rootless containers have, and
// returns it with the PID of a process in it.
func rootless(t *testing.T, s *testSeal, in *netlab.Cgroup) (*netlab.Host, string) {
	t.Helper()
	cmd := s.host.Command(t.Context(), in, labtest.NeedTool(t, "unshare"), "--user", "--map-root-user", "--net", "sh", "-c", "echo ready; exec sleep 600")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { kill(cmd) })
	if lines := bufio.NewScanner(out); !lines.Scan() || lines.Text() != "ready" {
		t.Fatalf("create a user namespace: %q, %v", lines.Text(), lines.Err())
	}
	pid := strconv.Itoa(cmd.Process.Pid)
	ns, err := netns.OpenPath("/proc/" + pid + "/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = ns.Close() })
	return &netlab.Host{Name: "rootless", NS: ns}, pid
}

func testUserMode(t *testing.T, program, relay string) {
	path := labtest.NeedTool(t, program)
	s, groups := withCgroups(t, func(cfg *Config, groups map[string]*netlab.Cgroup) { cfg.Exclude = []string{groups["excluded"].Path} },
		"user-1001.slice", "user-1001.slice/container", "user-1001.slice/relay", "excluded")
	s.wire(t)
	in := groups[relay]
	if relay == "" {
		in = s.unsealed(t, "outside")
	}
	container, pid := rootless(t, s, groups["user-1001.slice/container"])
	args := []string{"--configure", "--enable-ipv6", pid, "tap0"}
	if program == "pasta" {
		args = []string{"--foreground", "--config-net", "--runas", "0", pid}
	}
	cmd := s.host.Command(t.Context(), in, path, args...)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { kill(cmd) })
	h, err := container.NS.Netlink()
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	labtest.WaitFor(t, program+" has configured the container", func() bool {
		routes, err := h.RouteGet(netip.MustParseAddr("2001:db8::53").AsSlice())
		return err == nil && len(routes) > 0
	})
	c := clienttest.Start(t, container, groups["user-1001.slice/container"])
	// The first workload of a user is reported in the background.
	c.Want("socket first udp4 => ok\nconnect first 8.8.8.8:53 => ok\nclose first => ok")
	labtest.WaitFor(t, "the user's cgroup is known", func() bool {
		var level uint32
		return s.kernel.Subtrees.Lookup(groups["user-1001.slice"].ID, &level) == nil
	})
	c.Want(strings.ReplaceAll(relayed, "W", s.about("")+"/user-1001.slice/container"))
	if t.Failed() {
		t.Logf("%s: %s", program, out.String())
	}
}
