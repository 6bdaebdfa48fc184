// SPDX-License-Identifier: Apache-2.0

package intercept

import (
	"strings"
	"testing"
)

func TestHooks(t *testing.T) {
	s := openSeal(t, nil)
	w := s.about("") // " by /NAME"
	for name, script := range map[string]string{
		"udp4": `
			socket a udp4 => ok
			connect a 8.8.8.8:53 => ok
			peer a => 8.8.8.8:53
			name a => 10.77.0.2
			send a => ok
			recv a => 8.8.8.8:53W from 8.8.8.8:53`,
		"udp6": `
			socket a udp6 => ok
			connect a [2001:db8::53]:53 => ok
			peer a => [2001:db8::53]:53
			name a => fd77::2
			send a => ok
			recv a => [2001:db8::53]:53W from [2001:db8::53]:53`,
		"udp mapped": `
			socket a udp6 => ok
			connect a 8.8.4.4:53 => ok
			peer a => [::ffff:8.8.4.4]:53
			send a => ok
			recv a => 8.8.4.4:53W from [::ffff:8.8.4.4]:53`,
		"tcp4": `
			socket a tcp4 => ok
			connect a 1.1.1.1:53 => ok
			peer a => 1.1.1.1:53
			send a => ok
			recv a => 1.1.1.1:53W`,
		"tcp6": `
			socket a tcp6 => ok
			connect a [2001:db8::54]:53 => ok
			peer a => [2001:db8::54]:53
			send a => ok
			recv a => [2001:db8::54]:53W`,
		"tcp mapped": `
			socket a tcp6 => ok
			connect a 1.1.1.1:53 => ok
			peer a => [::ffff:1.1.1.1]:53
			send a => ok
			recv a => 1.1.1.1:53W`,
		"unconnected, four nameservers on one socket": `
			socket a udp4 => ok
			sendto a 8.8.8.8:53 => ok
			recv a => 8.8.8.8:53W from 8.8.8.8:53
			sendto a 1.1.1.1:53 => ok
			sendto a 9.9.9.9:53 => ok
			recv a => 1.1.1.1:53W from 1.1.1.1:53
			recv a => 9.9.9.9:53W from 9.9.9.9:53
			sendto a 8.8.8.8:53 => ok
			recv a => 8.8.8.8:53W from 8.8.8.8:53
			peer a => ENOTCONN`,
		"unconnected, both families on one socket": `
			socket a udp6 => ok
			sendto a 8.8.8.8:53 => ok
			recv a => 8.8.8.8:53W from [::ffff:8.8.8.8]:53
			sendto a [2001:db8::53]:53 => ok
			recv a => [2001:db8::53]:53W from [2001:db8::53]:53`,
		"connected elsewhere": `
			socket a udp4 => ok
			connect a 8.8.8.8:53 => ok
			connect a 9.9.9.9:53 => ok
			peer a => 9.9.9.9:53
			send a => ok
			recv a => 9.9.9.9:53W from 9.9.9.9:53
			disconnect a => ok
			peer a => ENOTCONN
			sendto a 8.8.8.8:53 => ok
			recv a => 8.8.8.8:53W from 8.8.8.8:53`,
		"send elsewhere while connected": `
			socket a udp4 => ok
			connect a 8.8.8.8:53 => ok
			sendto a 9.9.9.9:53 => ok
			peer a => 8.8.8.8:53`,
		"AF_UNSPEC": `
			socket a udp4 => ok
			sendunspec a 8.8.8.8:53 => ok
			recv a => 8.8.8.8:53W from 8.8.8.8:53`,
		"control message only": `
			socket a udp4 => ok
			connect a 8.8.8.8:53 => ok
			sendcontrol a => ok
			recv a => 8.8.8.8:53W from 8.8.8.8:53`,
	} {
		t.Run(name, func(t *testing.T) {
			s.client(t).want(strings.ReplaceAll(script, "53W", "53"+w))
		})
	}
}

// What is none of Sotto's business goes where it was sent.
func TestUntouched(t *testing.T) {
	s := openSeal(t, nil)
	if err := s.host.Sysctl("net/ipv4/ping_group_range", "0 0"); err != nil {
		t.Fatal(err)
	}
	before := s.Counters()
	s.client(t).want(`
		socket other udp4 => ok
		connect other 8.8.8.8:5353 => ok
		peer other => 8.8.8.8:5353
		socket loop udp4 => ok
		connect loop 127.0.0.11:53 => ok
		send loop => ok
		recv loop => ECONNREFUSED
		socket loop6 udp6 => ok
		connect loop6 [::1]:53 => ok
		send loop6 => ok
		recv loop6 => ECONNREFUSED
		socket mapped udp6 => ok
		connect mapped 127.0.0.53:53 => ok
		send mapped => ok
		recv mapped => ECONNREFUSED
		socket tcp tcp4 => ok
		connect tcp 127.0.0.1:53 => ECONNREFUSED
		socket any udp4 => ok
		connect any 0.0.0.0:53 => ok
		peer any => 127.0.0.1:53
		socket group udp4 => ok
		connect group 224.0.0.251:53 => ok
		peer group => 224.0.0.251:53
		socket block udp4 => ok
		connect block 198.18.0.9:53 => ok
		peer block => 198.18.0.9:53
		socket block6 udp6 => ok
		connect block6 [fd73:6f74:746f:9::7]:53 => ok
		peer block6 => [fd73:6f74:746f:9::7]:53
		socket ping ping4 => ok
		connect ping 8.8.8.8:53 => ok`)
	after := s.Counters()
	for _, name := range []string{"connect", "send", "slot_new", "unknown"} {
		if before[name] != after[name] {
			t.Errorf("%s was counted %d times", name, after[name]-before[name])
		}
	}
	if before["connect"] != 0 {
		t.Errorf("counted %v before anything happened", before)
	}
}

// Every transport that carries DNS is sealed.
func TestOtherTransports(t *testing.T) {
	s := openSeal(t, nil)
	c := s.client(t)
	for _, kind := range []string{"udplite4", "mptcp4"} {
		if got := c.do("socket %s %s", kind, kind); got == "EPROTONOSUPPORT" || got == "ENOPROTOOPT" {
			continue // this kernel cannot
		}
		before := s.Counters()["connect"]
		c.do("connect %s 8.8.8.8:53", kind)
		if got := s.Counters()["connect"] - before; got != 1 {
			t.Errorf("%s: sealed %d times", kind, got)
		}
		c.do("close %s", kind)
	}
	waitFor(t, "all references are given back", func() bool {
		_, refs := s.slotsUsed(t)
		return refs == 0
	})
}
