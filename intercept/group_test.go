// SPDX-License-Identifier: Apache-2.0

package intercept

import (
	"fmt"
	"strings"
	"testing"

	"sotto/internal/netlab"
	"sotto/internal/netlab/labtest"
)

// The NAT of a host that translates the queries of its containers cannot send them elsewhere
// in the clear, not even where virtual addresses are not exempt from it: on a kernel without
// nf_tables, or until a change of the ruleset is noticed.
func TestTranslated(t *testing.T) {
	s := &testSeal{}
	s.lab, s.host, s.lan = labtest.LAN(t)
	s.group = s.unsealed(t, "work")
	inside := labtest.Containers(t, s.lab, s.host, "container", "resolver")
	s.Instance = openAt(t, s.host, sealTestConfig(t, s.group))
	listen(t, s.Instance)
	if err := s.Attach(); err != nil {
		t.Fatal(err)
	}
	if err := s.nat.Remove(); err != nil {
		t.Fatal(err)
	}
	s.wire(t)
	c := startClient(t, inside[0], s.group)
	dnat := func(v4, v6 string) string {
		return fmt.Sprintf(`table ip force { chain pre { type nat hook prerouting priority -100; udp dport 53 dnat to %[1]s; tcp dport 53 dnat to %[1]s; }; }
			table ip6 force { chain pre { type nat hook prerouting priority -100; udp dport 53 dnat to %[2]s; tcp dport 53 dnat to %[2]s; }; }`, v4, v6)
	}
	for name, rules := range map[string]string{
		"nat, off this host": dnat(netlab.LANAddr4, netlab.LANAddr6),
		"nat, on this host":  dnat("10.88.0.3", "fd88::3"),
		"without state": `table ip force { chain pre { type filter hook prerouting priority -300; udp dport 53 ip daddr set 8.8.4.4 notrack; tcp dport 53 ip daddr set 8.8.4.4 notrack; }; }
			table ip6 force { chain pre { type filter hook prerouting priority -300; udp dport 53 ip6 daddr set 2001:db8::54; tcp dport 53 ip6 daddr set 2001:db8::54; }; }`,
		"at the port of the bridge": `table netdev force { chain pre { type filter hook ingress device "br0-2" priority 0; ip protocol udp udp dport 53 ip daddr set 8.8.4.4;
			ip protocol tcp tcp dport 53 ip daddr set 8.8.4.4; ip6 nexthdr udp udp dport 53 ip6 daddr set 2001:db8::54; }; }`,
	} {
		if out, err := s.host.Command(t.Context(), nil, labtest.NeedTool(t, "nft"), rules).CombinedOutput(); err != nil {
			t.Fatalf("%s: %v\n%s", name, err, out)
		}
		n := s.Counters()["stopped_translated"]
		c.want(`
			socket a udp4 => ok
			sendto a 8.8.8.8:53 => ok
			socket b udp6 => ok
			sendto b [2001:db8::53]:53 => ok
			socket c tcp4 => ok
			connect c 8.8.8.8:53 => EINPROGRESS`)
		if got := s.Counters()["stopped_translated"] - n; got < 3 {
			t.Errorf("%s: stopped %d", name, got)
		}
		for _, family := range []string{"ip", "ip6", "netdev"} { // which may have none
			_ = s.host.Command(t.Context(), nil, "nft", "delete", "table", family, "force").Run()
		}
	}
}

// Multicast and broadcast are for this machine only: by whatever socket option they would
// leave, and whether the guard or the hooks deny them.
func TestGroups(t *testing.T) {
	for mode, refused := range map[GuardMode][2]string{GuardDrop: {"ok", "EPERM"}, GuardCount: {"EHOSTUNREACH", "EHOSTUNREACH"}, GuardOff: {"EHOSTUNREACH", "EHOSTUNREACH"}} {
		s := openSeal(t, func(cfg *Config) { cfg.Guard = mode })
		if !hasSetRetval() {
			refused[0] = strings.Replace(refused[0], "EHOSTUNREACH", "EPERM", 1)
			refused[1] = "EPERM"
		}
		s.wire(t)
		s.client(t).want(strings.NewReplacer("CONNECT", refused[0], "DENIED", refused[1]).Replace(`
			socket a udp4 => ok
			broadcast a => ok
			groupby a eth0 => ok
			sendto a 239.1.2.3:53 => DENIED
			sendto a 224.0.0.251:53 => DENIED
			sendto a 255.255.255.255:53 => DENIED
			connect a 239.1.2.3:53 => CONNECT
			socket b udp6 => ok
			groupby b eth0 => ok
			sendto b [ff02::fb%eth0]:53 => DENIED
			sendto b [ff05::53]:53 => DENIED
			sendto b [::ffff:239.1.2.3]:53 => DENIED
			socket c udp4 => ok
			bind c eth0 => ok
			sendto c 239.1.2.3:53 => DENIED
			socket d udp4 => ok
			groupby d eth0 => ok
			sendto d 224.0.0.251:5353 => ok
			socket e udp4 => ok
			bind e lo => ok
			groupby e lo => ok
			sendto e 239.1.2.3:53 => ok`))
		n := s.Counters()
		if got := n["group"] + n["stopped_group"]; got < 7 {
			t.Errorf("mode %d: counted %d", mode, got)
		}
		if mode == GuardDrop {
			s.client(t).want("socket f udp4 => ok\ngroupby f lo => ok\nsendto f 239.1.2.3:53 => ok")
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
}
