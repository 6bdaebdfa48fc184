// SPDX-License-Identifier: Apache-2.0

package intercept

import (
	"net/netip"
	"strings"
	"testing"
)

// A workload cannot ask in another's name, short of making up packets: the virtual
// addresses that a socket may name are its workload's own.
func TestForeignSlot(t *testing.T) {
	s := openSeal(t, nil)
	mine, err := s.lab.Below(s.group, "mine")
	if err != nil {
		t.Fatal(err)
	}
	yours, err := s.lab.Below(s.group, "yours")
	if err != nil {
		t.Fatal(err)
	}
	a, b := startClient(t, s.host, mine), startClient(t, s.host, yours)
	about := s.about("8.8.8.8:53") + "/mine from "
	a.want("socket a udp4 => ok\nsendto a 8.8.8.8:53 => ok\nrecv a => " + about + "8.8.8.8:53\n" +
		"socket b udp6 => ok\nsendto b [2001:db8::53]:53 => ok\nrecv b => " + s.about("[2001:db8::53]:53") + "/mine from [2001:db8::53]:53")
	slot4 := netip.AddrPortFrom(nthAddr(s.cfg.Prefix4, firstSlotIndex), 53).String()
	slot6 := netip.AddrPortFrom(nthAddr(s.cfg.Prefix6, firstSlotIndex+1), 53).String()
	free := netip.AddrPortFrom(nthAddr(s.cfg.Prefix4, firstSlotIndex+9), 53).String()
	errno := "EHOSTUNREACH"
	if !hasSetRetval() {
		errno = "EPERM"
	}
	b.want(strings.NewReplacer("FOUR", slot4, "SIX", slot6, "FREE", free, "ERR", errno, "MAPPED", strings.Replace("[::ffff:"+slot4, ":53", "]:53", 1)).Replace(`
		socket a udp4 => ok
		sendto a FOUR => ERR
		connect a FOUR => ERR
		sendto a FREE => ERR
		socket b udp6 => ok
		sendto b SIX => ERR
		connect b SIX => ERR
		connect b MAPPED => ERR
		socket c tcp4 => ok
		connect c FOUR => ERR`))
	if n := s.Counters()["foreign"]; n != 7 {
		t.Errorf("counted %d", n)
	}
	// Its own is as good as the nameserver's address.
	a.want("sendto a " + slot4 + " => ok\nrecv a => " + about + "8.8.8.8:53")
	// An end of a connection that the kernel sends by itself arrives.
	a.want("socket c tcp4 => ok\nconnect c 8.8.8.8:53 => ok\nsend c => ok\nrecv c => " + s.about("8.8.8.8:53") + "/mine\nclose c => ok")
}
