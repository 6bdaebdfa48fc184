// SPDX-License-Identifier: Apache-2.0

package intercept

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"sotto/intercept/cgroup"
	"sotto/intercept/clienttest"
	"sotto/internal/capture"
	"sotto/internal/netlab"
	"sotto/internal/netlab/labtest"
)

// leaks is the matrix: ways to query a nameserver, each by a socket of a sealed program, and
// their results. NS is the nameserver and ANSWER the listener's answer; FROM is the answer
// with the nameserver as its source. No row may cause a packet to leave the machine in the
// clear.
var leaks = []struct {
	name, script string
	may          string // errors of kernels without such sockets
	unseen       bool   // a capture shows no port
}{
	{name: "UDP", script: "socket a udpF => ok\nsendto a NS => ok\nrecv a => FROM"},
	{name: "UDP, connected", script: "socket a udpF => ok\nconnect a NS => ok\nsend a => ok\nrecv a => FROM\npeer a => NS"},
	{name: "TCP", script: "socket a tcpF => ok\nconnect a NS => ok\nsend a => ok\nrecv a => ANSWER\npeer a => NS"},
	{name: "SO_BINDTODEVICE, UDP", script: "socket a udpF => ok\nbind a eth0 => ok\nsendto a NS => ok\nrecv a => FROM"},
	{name: "SO_BINDTODEVICE, UDP, connected", script: "socket a udpF => ok\nbind a eth0 => ok\nconnect a NS => ok\nsend a => ok\nrecv a => FROM"},
	{name: "SO_BINDTODEVICE, TCP", script: "socket a tcpF => ok\nbind a eth0 => ok\nconnect a NS => ok\nsend a => ok\nrecv a => ANSWER"},
	{name: "IP_UNICAST_IF", script: "socket a udpF => ok\npin a eth0 => ok\nsendto a NS => ok\nrecv a => FROM"},
	{name: "IP_UNICAST_IF, connected", script: "socket a udpF => ok\npin a eth0 => ok\nconnect a NS => ok\nsend a => ok\nrecv a => FROM"},
	{name: "IP_PKTINFO", script: "socket a udpF => ok\npktinfo a NS => ok\nrecv a => FROM"},
	{name: "a raw socket", script: "socket a rawF => ok\nrawto a NS => EPERM"},
	{name: "a packet socket", script: "frame eth0 NS => ENOBUFS"},
	{name: "a packet socket, tagged", script: "vlan eth0 NS => ENOBUFS"},
	{name: "UDP-Lite", script: "socket a udpliteF => ok\nsendto a NS => ok", may: "EPROTONOSUPPORT"}, // the listener does not answer it
	{name: "UDP-Lite, connected", script: "socket a udpliteF => ok\nconnect a NS => ok\nsend a => EPERM", may: "EPROTONOSUPPORT"},
	{name: "MPTCP", script: "socket a mptcpF => ok\nconnect a NS => ok\nsend a => ok\nrecv a => ANSWER", may: "EPROTONOSUPPORT ENOPROTOOPT"},
	{name: "TCP fast open", script: "socket a tcpF => ok\nfastopen a NS => ok\nrecv a => ANSWER"},
	{name: "io_uring, connect and send", script: "socket a udpF => ok\nuring a connect>NS => ok\nuring a send>NS => ok\nrecv a => FROM", may: "ENOSYS EPERM"},
	{name: "io_uring, sendmsg", script: "socket a udpF => ok\nuring a sendmsg>NS => ok\nrecv a => FROM", may: "ENOSYS EPERM"},
	{name: "io_uring, TCP", script: "socket a tcpF => ok\nuring a connect>NS => ok\nuring a send>NS => ok\nrecv a => ANSWER", may: "ENOSYS EPERM"},
	{name: "MSG_MORE", script: "socket a udpF => ok\nmoreto a NS => ok\nrecv a => FROM"},
	{name: "MSG_MORE, connected", script: "socket a udpF => ok\nconnect a NS => ok\nmore a => ok\nrecv a => FROM"},
	{name: "MSG_MORE, pinned", script: "socket a udpF => ok\nbind a eth0 => ok\nmoreto a NS => ok\nrecv a => FROM"},
	{name: "sendmmsg to two", script: "socket a udpF => ok\nmmsg a NS,NS => ok\nrecv a => FROM\nrecv a => FROM"},
	{name: "more than the MTU", script: "socket a udpF => ok\nbig a NS => ok\nrecv a => FROM"},
	{name: "a nameserver in the virtual block", script: "socket a udpF => ok\nsendto a BLOCK => ok\nrecv a => BLOCKFROM"},
	{name: "a nameserver in the virtual block, connected", script: "socket a udpF => ok\nconnect a BLOCK => ok\nsend a => ok\nrecv a => BLOCKFROM"},
	{name: "a nameserver in the virtual block, TCP", script: "socket a tcpF => ok\nconnect a BLOCK => ok\nsend a => ok\nrecv a => BLOCKANSWER"},
	{name: "multicast", script: "socket a udpF => ok\ngroupby a eth0 => ok\nsendto a GROUP => EPERM"},
	{name: "multicast, connected", script: "socket a udpF => ok\ngroupby a eth0 => ok\nconnect a GROUP => ok\nsend a => EPERM"},
	{name: "broadcast", script: "socket a udpF => ok\nbroadcast a => ok\nsendto a BROADCAST => EPERM"},
	{name: "broadcast, connected", script: "socket a udpF => ok\nbroadcast a => ok\nconnect a BROADCAST => ok\nsend a => EPERM"},
	{name: "fragments that part a header", script: "pieces NS => EPERM", unseen: true},
	{name: "more than the MTU, pinned", script: "socket a udpF => ok\npin a eth0 => ok\nbig a NS => ok\nrecv a => FROM"},
}

// families are the address families; an IPv6 socket sends to a mapped address as IPv4.
var families = []struct{ name, f, ns string }{
	{"IPv4", "4", "8.8.8.8:53"}, {"IPv6", "6", "[2001:db8::53]:53"}, {"IPv4 mapped", "6", "[::ffff:8.8.8.8]:53"},
}

// Nameservers that are not virtual addresses of the instance, but are in the blocks that its
// prefixes come from; and multicast groups.
var blocks, groups = map[string]string{"4": "198.18.133.1:53", "6": "[fd73:6f74:746f:9::7]:53"},
	map[string]string{"4": "239.1.2.3:53", "6": "[ff05::53]:53"}

// leakScript returns the script of a row for a family, or "" if there is none.
func (s *testSeal) leakScript(row int, f, ns string) string {
	script := leaks[row].script
	if strings.Contains(ns, "::ffff") && slices.ContainsFunc([]string{"pin", "pktinfo", "raw", "frame", "vlan", "Lite, connected", "BLOCK", "GROUP", "BROADCAST", "pieces"}, func(of string) bool {
		return strings.Contains(script, of) || strings.Contains(leaks[row].name, of)
	}) {
		return "" // these exist only for one family
	}
	if f == "6" && strings.Contains(script, "BROADCAST") {
		return "" // IPv6 has no broadcast
	}
	block := s.about(blocks[f])
	about := s.about(strings.Replace(ns, "[::ffff:8.8.8.8]", "8.8.8.8", 1))
	return strings.NewReplacer("BLOCKFROM", block+" from "+blocks[f], "BLOCKANSWER", block, "BLOCK", blocks[f],
		"GROUP", groups[f], "BROADCAST", "255.255.255.255:53", "NS", ns, "FROM", about+" from "+ns, "ANSWER", about, "udpF", "udp"+f, "tcpF", "tcp"+f, "rawF", "raw"+f,
		"udpliteF", "udplite"+f, "mptcpF", "mptcp"+f).Replace(script)
}

// wholeHostVar is the environment variable that allows the test to seal the root cgroup, and
// thus all programs on the machine. scripts/vm-test.sh sets it in its virtual machines.
const wholeHostVar = "SOTTO_TEST_WHOLE_HOST"

// forms are the kinds of seals: those of `sotto run --cgroup`, of `sotto exec`, and of
// `sotto run` for the whole host.
var forms = []struct {
	name   string
	change func(*Config)
}{
	{"cgroup", nil},
	{"command", func(cfg *Config) {
		cfg.Ephemeral, cfg.Name, cfg.Prefix4, cfg.Prefix6 = true, "", netip.Prefix{}, netip.Prefix{}
	}},
	{"host", func(cfg *Config) {
		root, err := cgroup.Root()
		if err != nil {
			panic(err)
		}
		cfg.Cgroups, cfg.GuardHost = []string{root}, true
	}},
}

func TestLeakMatrix(t *testing.T) {
	for _, form := range forms {
		t.Run(form.name, func(t *testing.T) {
			if form.name == "host" && os.Getenv(wholeHostVar) == "" {
				t.Skipf("skipped: it seals the root cgroup; %s=1 allows that, on a machine for tests", wholeHostVar)
			}
			testLeakMatrix(t, form.change)
		})
	}
}

func testLeakMatrix(t *testing.T, change func(*Config)) {
	s := openSeal(t, change)
	s.fastOpen(t)
	s.wire(t)
	for row := range leaks {
		for _, family := range families {
			script := s.leakScript(row, family.f, family.ns)
			if script == "" {
				continue
			}
			t.Run(leaks[row].name+", "+family.name, func(t *testing.T) {
				c := s.client(t)
				first, rest, _ := strings.Cut(script, "\n")
				what, want, _ := strings.Cut(first, " => ")
				switch got := c.Do("%s", what); {
				case got == want:
				case leaks[row].may != "" && strings.Contains(leaks[row].may, got):
					t.Logf("not supported by this kernel: %s", got)
					return
				default:
					t.Errorf("%s: got %q, want %q", what, got, want)
				}
				c.Want(rest)
			})
		}
	}
}

// fastOpen makes TCP fast open send data in the first SYN, without a cookie of the server
// (ip-sysctl.rst: 1 enables the client, 4 allows no cookie).
func (s *testSeal) fastOpen(t *testing.T) {
	t.Helper()
	if err := s.host.Sysctl("net/ipv4/tcp_fastopen", "5"); err != nil {
		t.Fatal(err)
	}
}

// Every row of the matrix can fail: without a seal its packets leave the machine, if the
// kernel has such sockets.
func TestLeakMatrixUnsealed(t *testing.T) {
	s := &testSeal{Instance: &Instance{}}
	s.lab, s.host, s.lan = labtest.LAN(t)
	s.group = s.unsealed(t, "work")
	s.fastOpen(t)
	for row := range leaks {
		for _, family := range families {
			script := s.leakScript(row, family.f, family.ns)
			if script == "" {
				continue
			}
			missing := ""
			seen := func(p capture.Packet) bool { return p.Protocol == protocol(script) && p.Dst.Port() == 53 }
			if leaks[row].unseen {
				seen = capture.Packet.Opaque
			}
			left := s.leaves(t, seen, func() { missing = s.client(t).Send(script, leaks[row].may) })
			switch {
			case missing != "":
				t.Logf("%s, %s: not supported by this kernel: %s", leaks[row].name, family.name, missing)
			case !left:
				t.Errorf("%s, %s: no packet left", leaks[row].name, family.name)
			}
		}
	}
}

// protocol returns the transport protocol of a script.
func protocol(script string) uint8 {
	switch {
	case strings.Contains(script, "udplite"):
		return unix.IPPROTO_UDPLITE
	case strings.Contains(script, "tcp"): // or MPTCP
		return unix.IPPROTO_TCP
	}
	return unix.IPPROTO_UDP
}

// leaves reports whether a step sends a packet for which such returns true over the wire. The
// packet may leave after the step, when the address of its next hop is resolved.
func (s *testSeal) leaves(t *testing.T, such func(capture.Packet) bool, step func()) bool {
	t.Helper()
	c, err := capture.Start(s.lan.NS, netlab.LANIf)
	if err != nil {
		t.Fatal(err)
	}
	step()
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
	defer cancel()
	err = c.Wait(ctx, func(packets []capture.Packet) bool { return slices.ContainsFunc(packets, such) })
	if _, failed := c.Stop(); failed != nil {
		t.Fatalf("capture: %v", failed)
	}
	return err == nil
}

// A socket that was opened in the cgroup stays sealed when its program moves out. One that was
// opened outside, and whose program moves in, is sealed if both cgroups are, as with a seal
// of the whole host.
func TestLeakMoved(t *testing.T) {
	s := openSeal(t, nil)
	other := s.unsealed(t, "other")
	c := s.client(t)
	n := s.crossed(t, func() {
		c.Want(strings.NewReplacer("OUT", other.Path, "W", s.about("")).Replace(`
			socket a udp4 => ok
			socket r raw4 => ok
			moveself OUT => ok
			sendto a 8.8.8.8:53 => ok
			rawto r 8.8.8.8:53 => EPERM`))
	})
	if n != 0 {
		t.Errorf("%d packets left", n)
	}
	// The workload is the current cgroup of the program.
	if got, want := c.Do("recv a"), fmt.Sprintf("8.8.8.8:53 by /%s from 8.8.8.8:53", filepath.Base(other.Path)); got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestLeakMovedIn(t *testing.T) {
	s := openSeal(t, nil)
	s.wire(t)
	from, err := s.lab.Below(s.group, "from")
	if err != nil {
		t.Fatal(err)
	}
	to, err := s.lab.Below(s.group, "to")
	if err != nil {
		t.Fatal(err)
	}
	about := s.about("8.8.8.8:53") + "/to"
	clienttest.Start(t, s.host, from).Want(strings.NewReplacer("TO", to.Path, "W", about).Replace(`
		socket a udp4 => ok
		socket b tcp4 => ok
		socket r raw4 => ok
		moveself TO => ok
		sendto a 8.8.8.8:53 => ok
		recv a => W from 8.8.8.8:53
		connect b 8.8.8.8:53 => ok
		send b => ok
		recv b => W
		rawto r 8.8.8.8:53 => EPERM`))
}

// A sealed container on a bridge is answered like a program on the host, also by bound
// sockets. From an internal network, which has no default route, it does not reach the
// listener.
func TestLeakContainers(t *testing.T) {
	s := &testSeal{}
	s.lab, s.host, s.lan = labtest.LAN(t)
	s.group = s.unsealed(t, "work")
	inside := labtest.Containers(t, s.lab, s.host, "plain", "internal")
	none := labtest.Host(t, s.lab, "none")
	s.Instance = openAt(t, s.host, sealTestConfig(t, s.group))
	listen(t, s.Instance)
	if err := s.Attach(); err != nil {
		t.Fatal(err)
	}
	s.wire(t)
	for row := range leaks {
		if leaks[row].may != "" || strings.Contains(leaks[row].name, "packet socket") {
			continue // TestGuardHost tests packet sockets of containers
		}
		for _, family := range families {
			if script := s.leakScript(row, family.f, family.ns); script != "" {
				t.Run(leaks[row].name+", "+family.name, func(t *testing.T) { clienttest.Start(t, inside[0], s.group).Want(script) })
			}
		}
	}
	// Like Docker for an internal network.
	rules := `table ip internal { chain f { type filter hook forward priority -1; ip saddr 10.88.0.3 ip daddr != 10.88.0.0/24 drop; }; }
		table ip6 internal { chain f { type filter hook forward priority -1; ip6 saddr fd88::3 ip6 daddr != fd88::/64 drop; }; }`
	if out, err := s.host.Command(t.Context(), nil, labtest.NeedTool(t, "nft"), rules).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	clienttest.Start(t, inside[1], s.group).Want(`
		socket a udp4 => ok
		sendto a 8.8.8.8:53 => ok
		recv a => EAGAIN
		socket b udp6 => ok
		sendto b [2001:db8::53]:53 => ok
		recv b => EAGAIN
		socket c tcp4 => ok
		connect c 8.8.8.8:53 => EINPROGRESS`)
	clienttest.Start(t, none, s.group).Want(`
		socket a udp4 => ok
		sendto a 8.8.8.8:53 => ENETUNREACH
		connect a 8.8.8.8:53 => ENETUNREACH
		socket b udp6 => ok
		sendto b [2001:db8::53]:53 => ENETUNREACH
		socket c tcp4 => ok
		connect c 8.8.8.8:53 => ENETUNREACH`)
}
