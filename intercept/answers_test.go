// SPDX-License-Identifier: Apache-2.0

package intercept

import (
	"strings"
	"testing"

	"sotto/intercept/clienttest"
	"sotto/internal/netlab/labtest"
)

// A nameserver inside the seal answers clients whose source port is 53, over UDP and TCP. What
// it sends there as a query does not leave.
func TestAnswersToPort53(t *testing.T) {
	s := openSeal(t, nil)
	server, client := s.client(t), clienttest.Start(t, s.lan, s.unsealed(t, "outside"))
	script := func(text string) string {
		return strings.NewReplacer("QUESTION", clienttest.Question, "ANSWER", clienttest.Answer, "W", s.about("")).Replace(text)
	}
	for _, family := range []struct{ kind, here, there, other string }{
		{"4", "10.77.0.2:53", "10.77.0.1:53", "10.77.0.9:53"}, {"6", "[fd77::2]:53", "[fd77::1]:53", "[fd77::9]:53"},
	} {
		both := strings.NewReplacer("HERE", family.here, "THERE", family.there, "OTHER", family.other, "FAM", family.kind)
		do := func(c *clienttest.Client, text string) {
			t.Helper()
			c.Want(script(both.Replace(text)))
		}
		do(server, "socket s udpFAM => ok\nlocal s HERE => ok\nsendto s THERE => ok\nrecv s => THEREW from THERE")
		do(client, "socket c udpFAM => ok\nlocal c THERE => ok\nsendto c HERE => ok")
		do(server, "recv s => QUESTION from THERE\nanswerto s THERE => ok\nsendto s THERE => EPERM\nsendto s OTHER => ok\nrecv s => OTHERW from OTHER")
		do(client, "recv c => ANSWER from HERE\nrecv c => EAGAIN")
		// Another socket has not been asked.
		do(server, "socket u udpFAM => ok\nanswerto u THERE => ok\nrecv u => THEREW from THERE\nclose u => ok\nclose s => ok")

		do(server, "socket l tcpFAM => ok\nlocal l HERE => ok\nlisten l => ok")
		do(client, "socket t tcpFAM => ok\nlocal t THERE => ok\nconnect t HERE => ok\nsend t => ok")
		do(server, "accept a l => ok\nrecv a => QUESTION\nsend a => ok")
		// Before Linux 6.6 (commit 223f903e9c83) the guard does not see a SYN+ACK over IPv6, and
		// stops what it cannot know to be a reply.
		if family.kind == "6" && !labtest.KernelAtLeast(t, 6, 6) {
			do(client, "recv t => EAGAIN\nclose t => ok\nclose c => ok")
			do(server, "close a => ok\nclose l => ok")
			continue
		}
		do(client, "recv t => QUESTION\nclose t => ok\nclose c => ok")
		do(server, "recv a => *\nclose a => ok\nclose l => ok")
	}
	n := s.Counters()
	if n["answer"] != 4 || n["stopped_socket"] != 2 && labtest.KernelAtLeast(t, 6, 6) {
		t.Errorf("counted %v", n)
	}
	// Without a connection that was accepted, a segment does not leave.
	server.Want(strings.ReplaceAll("socket x tcp4 => ok\nlocal x 10.77.0.2:53 => ok\nconnect x 10.77.0.1:53 => ok\npeer x => 10.77.0.1:53\nsend x => ok\nrecv x => 10.77.0.1:53W", "W", s.about("")))
}

// If the guard does not drop, replies to port 53 are redirected like queries.
func TestAnswersWithoutGuard(t *testing.T) {
	for _, mode := range []GuardMode{GuardCount, GuardOff} {
		s := openSeal(t, func(cfg *Config) { cfg.Guard = mode })
		server, client := s.client(t), clienttest.Start(t, s.lan, s.unsealed(t, "outside"))
		server.Want("socket s udp4 => ok\nlocal s 10.77.0.2:53 => ok")
		client.Want("socket c udp4 => ok\nlocal c 10.77.0.1:53 => ok\nsendto c 10.77.0.2:53 => ok")
		server.Want("recv s => " + clienttest.Question + " from 10.77.0.1:53\nsendto s 10.77.0.1:53 => ok\nrecv s => " + s.about("10.77.0.1:53") + " from 10.77.0.1:53")
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
}
