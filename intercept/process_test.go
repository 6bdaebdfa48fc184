// SPDX-License-Identifier: Apache-2.0

package intercept

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"sotto/intercept/clienttest"
	"sotto/intercept/feature"
	"sotto/internal/netlab"
	"sotto/internal/netlab/labtest"
)

// openAttributed is openSeal with a listener that answers with the process of the query:
// "PID UID COMM", or "unknown".
func openAttributed(t *testing.T, change func(*Config)) *testSeal {
	t.Helper()
	s := &testSeal{}
	s.lab, s.host, s.lan = labtest.LAN(t)
	s.group = s.unsealed(t, "work")
	cfg := sealTestConfig(t, s.group)
	cfg.Attribution = true
	if change != nil {
		change(&cfg)
	}
	s.Instance = openAt(t, s.host, cfg)
	s.stopListening = listenWith(t, s.Instance, func(local net.IP, client net.Addr) []byte {
		arrived := time.Now()
		addr, _ := netip.AddrFromSlice(local)
		id := binary.BigEndian.Uint16([]byte(clienttest.Question))
		if client.Network() == "tcp" { // without a length, which would be before the ID
			id = binary.BigEndian.Uint16([]byte(clienttest.Question[2:]))
		}
		p, ok := s.Process(Arrival{addr, netip.MustParseAddrPort(client.String()), client.Network() == "tcp", id, arrived})
		if !ok {
			return []byte("unknown")
		}
		return fmt.Appendf(nil, "%d %d %s", p.PID, p.UID, p.Comm)
	})
	if err := s.Attach(); err != nil {
		t.Fatal(err)
	}
	stop, err := s.StartTrace()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(stop)
	return s
}

// process is the answer that the listener gives to a client. Its threads have the name of the
// test binary.
func process(t *testing.T, c *clienttest.Client) string {
	t.Helper()
	comm := filepath.Base(os.Args[0])
	return fmt.Sprintf("%d %d %s", c.PID(), os.Getuid(), comm[:min(len(comm), 15)])
}

// askScripts are the ways to send a query. P is the process in the answer. They leave their
// socket open, so that no other socket gets its port.
var askScripts = map[string]string{
	"udp4":        "socket a udp4 => ok\nconnect a 8.8.8.8:53 => ok\nsend a => ok\nrecv a => P from 8.8.8.8:53\nsend a => ok\nrecv a => P from 8.8.8.8:53",
	"udp6":        "socket a udp6 => ok\nconnect a [2001:db8::53]:53 => ok\nsend a => ok\nrecv a => P from [2001:db8::53]:53",
	"mapped":      "socket a udp6 => ok\nconnect a 8.8.4.4:53 => ok\nsend a => ok\nrecv a => P from [::ffff:8.8.4.4]:53",
	"unconnected": "socket a udp4 => ok\nsendto a 8.8.8.8:53 => ok\nrecv a => P from 8.8.8.8:53\nsendto a 1.1.1.1:53 => ok\nrecv a => P from 1.1.1.1:53",
	"both":        "socket a udp6 => ok\nsendto a 8.8.8.8:53 => ok\nrecv a => P from [::ffff:8.8.8.8]:53\nsendto a [2001:db8::53]:53 => ok\nrecv a => P from [2001:db8::53]:53",
	"tcp4":        "socket a tcp4 => ok\nconnect a 1.1.1.1:53 => ok\nsend a => ok\nrecv a => P",
	"tcp6":        "socket a tcp6 => ok\nconnect a [2001:db8::54]:53 => ok\nsend a => ok\nrecv a => P",
	"fastopen":    "socket a tcp4 => ok\nfastopen a 1.1.1.1:53 => ok\nrecv a => P",
	"reconnected": "socket a udp4 => ok\nconnect a 8.8.8.8:53 => ok\nsend a => ok\nrecv a => P from 8.8.8.8:53\nconnect a 1.1.1.1:53 => ok\nsend a => ok\nrecv a => P from 1.1.1.1:53",
}

// TestProcess: several processes of two workloads ask at once, and each query has its own.
func TestProcess(t *testing.T) {
	other := new(netlab.Cgroup)
	s := openAttributed(t, func(cfg *Config) { cfg.Cgroups = []string{filepath.Dir(cfg.Cgroups[0])} })
	*other = *s.unsealed(t, "other")
	var wg sync.WaitGroup
	for _, group := range []*netlab.Cgroup{s.group, s.group, other, other} {
		for range 2 {
			c := clienttest.Start(t, s.host, group)
			wg.Go(func() {
				for round := range 5 {
					for name, script := range askScripts {
						socket := fmt.Sprintf(" %s%d ", name, round)
						c.Want(strings.NewReplacer(" a ", socket, "P", process(t, c)).Replace(script))
					}
				}
			})
		}
	}
	wg.Wait()
}

// TestProcessUnknown: where the process is not certain it is unknown, also on older kernels.
func TestProcessUnknown(t *testing.T) {
	for name, knows := range map[string]bool{"this kernel": feature.KnowsCurrent(), "before 6.10": false} {
		t.Run(name, func(t *testing.T) {
			knowsCurrent = func() bool { return knows }
			defer func() { knowsCurrent = feature.KnowsCurrent }()
			testUnknown(t, knows)
		})
	}
}

// testUnknown is TestProcessUnknown on a kernel where the guard can read the process, or cannot.
func testUnknown(t *testing.T, knows bool) {
	s := openAttributed(t, nil)
	a, b := s.client(t), s.client(t)
	inbox := filepath.Join(t.TempDir(), "b")
	a.Want("inbox " + inbox + "a => ok")
	b.Want("inbox " + inbox + " => ok")
	swap := strings.NewReplacer("A", process(t, a), "B", process(t, b), "INBOX", inbox)
	// A socket that two processes use.
	a.Want(swap.Replace("socket u udp4 => ok\nsendto u 8.8.8.8:53 => ok\nrecv u => A from 8.8.8.8:53\npass u INBOX => ok"))
	b.Want("receive => u\nsendto u 8.8.8.8:53 => ok\nrecv u => unknown from 8.8.8.8:53")
	a.Want("sendto u 8.8.8.8:53 => ok\nrecv u => unknown from 8.8.8.8:53")
	// A socket that another process opened, and only this one uses.
	a.Want(swap.Replace("socket v udp4 => ok\npass v INBOX => ok\nclose v => ok"))
	b.Want(swap.Replace("receive => v\nsendto v 8.8.8.8:53 => ok\nrecv v => B from 8.8.8.8:53"))
	// A connected socket that is passed on.
	after := swap.Replace("A")
	if knows {
		after = "unknown"
	}
	a.Want(swap.Replace("socket c udp4 => ok\nconnect c 8.8.8.8:53 => ok\nsend c => ok\nrecv c => A from 8.8.8.8:53\npass c INBOX => ok"))
	b.Want("receive => c\nsend c => ok\nrecv c => " + after + " from 8.8.8.8:53")
	// A port that another process had just before.
	a.Want(swap.Replace("socket w udp4 => ok\nfrom w 10.77.0.2:40001 => ok\nsendto w 8.8.8.8:53 => ok\nrecv w => A from 8.8.8.8:53\nclose w => ok"))
	b.Want(swap.Replace("socket w udp4 => ok\nfrom w 10.77.0.2:40001 => ok\nsendto w 8.8.8.8:53 => ok\nrecv w => unknown from 8.8.8.8:53"))
	// The same process may use it again.
	b.Want(swap.Replace("socket x udp4 => ok\nfrom x 10.77.0.2:40002 => ok\nsendto x 8.8.8.8:53 => ok\nrecv x => B from 8.8.8.8:53\nclose x => ok"))
	b.Want(swap.Replace("socket x udp4 => ok\nfrom x 10.77.0.2:40002 => ok\nsendto x 8.8.8.8:53 => ok\nrecv x => B from 8.8.8.8:53\nclose x => ok"))
}

// TestWatch: nothing is published without watchers, and what was published before they started
// is not used again.
func TestWatch(t *testing.T) {
	s := openAttributed(t, nil)
	// Two watch, with that of openAttributed.
	first, err := s.StartTrace()
	if err != nil {
		t.Fatal(err)
	}
	first()
	first() // does nothing
	a, b := s.client(t), s.client(t)
	ask := func(c *clienttest.Client, want string) {
		t.Helper()
		c.Want("socket u udp4 => ok\nfrom u 10.77.0.2:40001 => ok\nsendto u 8.8.8.8:53 => ok\nrecv u => " + want + " from 8.8.8.8:53\nclose u => ok")
	}
	ask(a, process(t, a))
	if err := s.watch(-1); err != nil {
		t.Fatal(err)
	}
	before := s.published(t)
	ask(b, "unknown")
	if after := s.published(t); before == nil || !slices.Equal(before, after) {
		t.Errorf("published without a watcher: %v, %v before", after, before)
	}
	if err := s.watch(1); err != nil { // for the cleanup of openAttributed
		t.Fatal(err)
	}
	ask(b, process(t, b)) // the entry of a is not a conflict
}

// published returns the entries of senders.
func (s *testSeal) published(t *testing.T) (all []sottoSender) {
	t.Helper()
	var key sottoSenderKey
	var value sottoSender
	it := s.kernel.Senders.Iterate()
	for it.Next(&key, &value) {
		all = append(all, value)
	}
	if err := it.Err(); err != nil {
		t.Fatal(err)
	}
	return all
}

// TestProcessBehindNAT: the address of a container is that of the host for the listener. If the
// host replaces ports too, the process may be unknown, but is never another one.
func TestProcessBehindNAT(t *testing.T) {
	for name, flags := range map[string]string{"address": "", "port": "fully-random"} {
		t.Run(name, func(t *testing.T) {
			s := openAttributed(t, nil)
			s.run(t)
			b, err := s.lab.Bridge(t.Context(), s.host, "br7", 7)
			if err != nil {
				t.Skip(err)
			}
			container, err := s.lab.Container(b, "container")
			if err != nil {
				t.Fatal(err)
			}
			if flags != "" {
				for _, family := range []string{"ip", "ip6"} {
					rule := fmt.Sprintf("add chain %s br7 first { type nat hook postrouting priority 99; }; add rule %[1]s br7 first oifname != br7 masquerade %s", family, flags)
					if out, err := s.host.Command(t.Context(), nil, "nft", rule).CombinedOutput(); err != nil {
						t.Fatalf("%v: %s", err, out)
					}
				}
			}
			var clients []*clienttest.Client
			for range 3 {
				clients = append(clients, clienttest.Start(t, container, s.group))
			}
			var unknown atomic.Int32
			var wg sync.WaitGroup
			for _, c := range clients {
				wg.Go(func() {
					for _, kind := range []string{"udp4 8.8.8.8:53", "udp6 [2001:db8::53]:53", "tcp4 1.1.1.1:53", "tcp6 [2001:db8::54]:53"} {
						kind, to, _ := strings.Cut(kind, " ")
						c.Want(fmt.Sprintf("socket %s %[1]s => ok\nconnect %[1]s %s => ok\nsend %[1]s => ok", kind, to))
						got, _, _ := strings.Cut(c.Do("recv %s", kind), " from ")
						if got == "unknown" {
							unknown.Add(1)
						}
						if got != process(t, c) && (flags == "" || got != "unknown") {
							t.Errorf("%s: %s, want %s", kind, got, process(t, c))
						}
					}
				})
			}
			wg.Wait()
			if (unknown.Load() > 0) != (flags != "") {
				t.Errorf("%d processes are unknown", unknown.Load())
			}
		})
	}
}

// TestProcessOff: without the setting nothing is published, and no memory is used.
func TestProcessOff(t *testing.T) {
	s := openAttributed(t, func(cfg *Config) { cfg.Attribution = false })
	s.client(t).Want("socket u udp4 => ok\nsendto u 8.8.8.8:53 => ok\nrecv u => unknown from 8.8.8.8:53")
	if n := s.kernel.Senders.MaxEntries(); n != 1 {
		t.Errorf("the map has %d entries", n)
	}
	if all := s.published(t); len(all) > 0 {
		t.Errorf("published: %+v", all)
	}
}

// TestCovers: which times and addresses an entry is valid for.
func TestCovers(t *testing.T) {
	const ms = uint64(time.Millisecond)
	addr := netip.MustParseAddr("192.0.2.1")
	words := func(a netip.Addr) (out [4]uint32) {
		b := a.As16()
		for i := range out {
			out[i] = uint32(b[4*i]) | uint32(b[4*i+1])<<8 | uint32(b[4*i+2])<<16 | uint32(b[4*i+3])<<24
		}
		return out
	}
	s := sottoSender{Addr: words(addr), Since: 5000 * ms, Last: 6000 * ms, Caller: sottoCaller{Pid: 1},
		Ids: [4]uint16{htons(1), htons(2)}, Sent: 2}
	for _, tc := range []struct {
		addr string
		id   uint16
		at   uint64
		want bool
	}{
		{"192.0.2.1", 0, 4999 * ms, false},
		{"192.0.2.1", 0, 5000 * ms, true},
		{"::ffff:192.0.2.1", 0, 6000 * ms, true},
		{"192.0.2.1", 0, 8000 * ms, true},
		{"192.0.2.1", 0, 8001 * ms, false},
		{"192.0.2.2", 0, 6000 * ms, false},
		{"192.0.2.2", 3, 6000 * ms, false},
		{"192.0.2.2", 1, 6000 * ms, true}, // NAT has replaced the address
		{"192.0.2.2", 2, 8000 * ms, true},
		{"192.0.2.2", 2, 8001 * ms, false},
		{"2001:db8::1", 0, 6000 * ms, false},
	} {
		if got := s.covers(netip.MustParseAddr(tc.addr), tc.id, tc.at); got != tc.want {
			t.Errorf("%s, ID %d, at %d ms: %v", tc.addr, tc.id, tc.at/ms, got)
		}
	}
	link := netip.MustParseAddr("fe80::1%eth0")
	s.Addr = words(link.WithZone(""))
	if !s.covers(link, 0, 6000*ms) {
		t.Error("an address with a zone does not match")
	}
	s.Caller.Pid = 0
	if s.covers(link, 0, 6000*ms) {
		t.Error("an unknown process is known")
	}
}
