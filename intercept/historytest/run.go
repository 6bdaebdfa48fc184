// SPDX-License-Identifier: Apache-2.0

package historytest

import (
	"net/netip"
	"strings"
	"time"

	"sotto/intercept/network"
)

// run executes steps from the initial state, and closes all sockets afterwards. It returns the
// violations.
func (w *runner) run(steps []step) []violation {
	w.model.broken = nil
	w.model.step = -1
	w.prepare()
	for _, s := range steps {
		for _, proc := range append([]string{s.proc, s.other}, s.storms...) {
			if proc == "" {
				continue
			}
			first := firstGroup[proc[len(proc)-1]]
			if w.clients[proc] == nil {
				w.spawn(proc, first)
			} else if w.model.processes[proc].in.group != first {
				w.move(proc, first) // from the group where an earlier history left it
			}
		}
	}
	for n, s := range steps {
		w.model.step = n
		s.kind.run(w, s)
		w.checkReceived()
	}
	w.finish()
	return w.model.broken
}

// firstGroup is the group in which a process starts, by the last letter of its name.
var firstGroup = map[byte]int{'a': groupA, 'b': groupInner, 'c': groupB}

// forget records that all sockets are closed and all children have exited.
func (m *model) forget() {
	clear(m.socks)
	for name, p := range m.processes {
		clear(p.holds)
		p.inbox = nil
		if isChild(name) {
			delete(m.processes, name)
		}
	}
}

// childOf returns the name of a process's child.
func childOf(proc string) string { return proc + "'" }

func isChild(name string) bool { return strings.HasSuffix(name, "'") }

// How long a client waits for likely and unlikely results. No property depends on these times.
const (
	waitLikely   = 300 * time.Millisecond
	waitUnlikely = 4 * time.Millisecond
)

// wait returns a time in milliseconds. It is long for a result that must come, because the
// machine may be slow.
func (w *runner) wait(must bool, otherwise time.Duration) int64 {
	if must {
		otherwise = w.timeout
	}
	return otherwise.Milliseconds()
}

// waitFor returns how long to wait for an answer.
func (w *runner) waitFor(q *query) int64 {
	if q.mayLeave && (q.peer == nil || !q.peer.elsewhere) {
		return waitLikely.Milliseconds() // a nameserver of the LAN answers
	}
	return w.wait(q.mustAnswer, waitUnlikely)
}

func (w *runner) runOpen(s step) {
	p := w.model.processes[s.proc]
	if got := w.do(s.proc, "socket %s %s", s.sock, s.what); got != "ok" {
		w.model.violate("instance", "open a socket %s: %s", s.what, got)
		return
	}
	p.holds[s.sock] = true
	w.model.socks[s.sock] = &modelSocket{name: s.sock, kind: s.what, made: p.in, sent: make(map[int]*query)}
}

func (w *runner) runConnect(s step) {
	p, k, ok := w.model.held(s.proc, s.sock)
	if !ok {
		return
	}
	must := w.model.mustConnect(k, s.what)
	got := w.do(s.proc, "dial %s %d %s", s.sock, w.wait(must, waitLikely), s.what)
	if must && got != "ok" && !w.exhausted() {
		w.model.violate("refused", "socket %s (%s) connects to %s: %s", k.name, k.kind, s.what, got)
	}
	w.model.connected(p, k, s.what, got)
	if must && got == "ok" && !strings.HasPrefix(k.kind, "mptcp") {
		if peer := w.do(s.proc, "peer %s", s.sock); peer != s.what {
			w.model.violate("reply", "the peer of socket %s is %s, not %s", k.name, peer, s.what)
		}
	}
}

func (w *runner) runElsewhere(s step) {
	s.what = strings.TrimSuffix(s.what, ":53") + ":5353"
	if p, k, ok := w.model.held(s.proc, s.sock); ok {
		w.model.connected(p, k, s.what, w.do(s.proc, "dial %s %d %s", s.sock, waitLikely.Milliseconds(), s.what))
	}
}

// runUnroutable connects to an address without a route: the kernel refuses after the hook has
// run, and a connected socket keeps its peer.
func (w *runner) runUnroutable(s step) {
	_, k, ok := w.model.held(s.proc, s.sock)
	if !ok {
		return
	}
	to := "255.255.255.255:5353"
	if strings.HasSuffix(k.kind, "6") {
		to = "[ff02::1]:5353"
	}
	got := w.do(s.proc, "dial %s %d %s", s.sock, waitLikely.Milliseconds(), to)
	w.model.settlePeer(k, &modelPeer{elsewhere: true, odd: true}, got)
}

func (w *runner) runDisconnect(s step) {
	_, k, ok := w.model.held(s.proc, s.sock)
	if !ok {
		return
	}
	if w.do(s.proc, "disconnect %s", s.sock) == "ok" {
		k.peer, k.left = nil, strings.HasSuffix(k.kind, "6")
	} else if k.peer != nil {
		k.peer.odd = true
	}
}

// raceAttempts limits the attempts to produce a rare case: that two connects complete in another
// order than their hooks.
const raceAttempts = 30

// runRace connects one socket in two threads of a process at the same time.
func (w *runner) runRace(s step) {
	p, k, ok := w.model.held(s.proc, s.sock)
	if !ok {
		return
	}
	for range raceAttempts {
		got := strings.Fields(w.do(s.proc, "race %s %s %s", s.sock, s.what, s.more))
		w.model.raced(p, k, []string{s.what, s.more}, got)
		last := k.stream() || s.what == s.more || w.model.phase != phaseRunning || !w.model.hooked(k)
		if last {
			return
		}
		peer, err := netip.ParseAddrPort(w.do(s.proc, "peer %s", s.sock))
		if err != nil || !w.references(p, netip.AddrPortFrom(peer.Addr().Unmap(), peer.Port())) {
			return
		}
	}
}

// references reports whether a socket refers to the slot of a nameserver.
func (w *runner) references(p *process, to netip.AddrPort) bool {
	for idx := uint32(network.FirstSlot); idx < network.FirstSlot+poolSize; idx++ {
		prefix := w.settings.Prefix4
		if to.Addr().Is6() {
			prefix = w.settings.Prefix6
		}
		o, ok := w.inst.OriginOf(network.NthAddr(prefix, idx))
		if ok && o.Addr == to && o.CgroupID == p.in.id {
			if _, refs := w.inst.Slot(idx); refs > 0 {
				return true
			}
		}
	}
	return false
}

// runAsk sends a query and waits for the answer, by a connected socket or with an address.
func (w *runner) runAsk(s step) { w.query(s, true) }

// runSend sends a query and does not read the answer.
func (w *runner) runSend(s step) { w.query(s, false) }

func (w *runner) query(s step, read bool) {
	p, k, ok := w.model.held(s.proc, s.sock)
	if !ok || s.what == "" && k.peer == nil {
		return
	}
	q := w.model.ask(w.number(1), p, k, s.what)
	wait := int64(0)
	if read {
		wait = w.waitFor(q)
	}
	got := w.do(s.proc, "ask %s %d %d %s", s.sock, q.number, wait, s.what)
	if refused(got) && q.peer == nil && w.model.phase == phaseRunning && w.exhausted() {
		q.mustAnswer = false
	}
	w.asked++
	w.model.asked(q, k, got, read)
	w.sent(q, read)
}

// refused reports whether a query was not sent, for example because no slot was free.
func refused(result string) bool { return !strings.HasPrefix(result, "ok") }

// sent waits until a query has arrived.
func (w *runner) sent(q *query, answered bool) {
	switch {
	case q.mustAnswer && answered:
		w.answered++
	case q.mustAnswer && !w.await(q.number):
		w.model.violate("silent", "%v: the listener did not receive it", q)
	case len(q.expected) > 0:
		w.settle()
	}
}

func (w *runner) runRead(s step) {
	if _, k, ok := w.model.held(s.proc, s.sock); ok {
		w.model.read(k, strings.Fields(w.do(s.proc, "replies %s 0", s.sock))[1:])
	}
}

// addresses returns virtual addresses and what they stand for: those of the process's own
// workload, or those of others.
func (w *runner) addresses(p *process, k *modelSocket, own bool) (addrs []string, means []destination) {
	for idx := uint32(network.FirstSlot); idx < network.FirstSlot+poolSize; idx++ {
		if used, _ := w.inst.Slot(idx); !used {
			continue
		}
		for _, prefix := range []netip.Prefix{w.settings.Prefix4, w.settings.Prefix6} {
			o, ok := w.inst.OriginOf(network.NthAddr(prefix, idx))
			six := strings.HasSuffix(k.kind, "6")
			if !ok || own != (o.CgroupID == p.in.id) || prefix.Addr().Is6() && !six {
				continue
			}
			addr := network.NthAddr(prefix, idx)
			if six {
				addr = netip.AddrFrom16(addr.As16())
			}
			addrs = append(addrs, netip.AddrPortFrom(addr, listenerPort).String())
			means = append(means, destination{o.Addr, p.in})
		}
	}
	return addrs, means
}

// runOwnAddress connects or sends to a virtual address of the own workload, which is equivalent
// to the nameserver that it stands for.
func (w *runner) runOwnAddress(s step) {
	p, k, ok := w.model.held(s.proc, s.sock)
	if !ok || w.model.phase != phaseRunning || !w.model.hooked(k) {
		return
	}
	addrs, means := w.addresses(p, k, true)
	if len(addrs) == 0 {
		return
	}
	n := s.n % len(addrs)
	k.named = true
	if !k.stream() && s.n%3 == 0 {
		q := w.model.ask(w.number(1), p, k, addrs[n])
		q.expected, q.mustAnswer = []destination{means[n]}, false
		q.sources = append(q.sources, means[n].nameserver)
		got := w.do(s.proc, "ask %s %d %d %s", s.sock, q.number, w.waitFor(q), addrs[n])
		w.model.asked(q, k, got, true)
		w.sent(q, false)
		return
	}
	got := w.do(s.proc, "dial %s %d %s", s.sock, waitLikely.Milliseconds(), addrs[n])
	next := &modelPeer{epoch: w.model.epoch, listener: w.model.listener, expected: []destination{means[n]}}
	k.use(unmapped(addrs[n]))
	w.model.settlePeer(k, next, got)
}

// runForeignAddress connects or sends to a virtual address of another workload, which must fail.
func (w *runner) runForeignAddress(s step) {
	p, k, ok := w.model.held(s.proc, s.sock)
	if !ok || w.model.phase != phaseRunning || !w.model.hooked(k) {
		return
	}
	addrs, _ := w.addresses(p, k, false)
	if len(addrs) == 0 {
		return
	}
	addr := addrs[s.n%len(addrs)]
	verb := "dial %s %d %s"
	if !k.stream() && s.n%2 == 0 {
		verb = "ask %s 0 %d %s"
	}
	if got := w.do(s.proc, verb, s.sock, waitUnlikely.Milliseconds(), addr); !refused(got) {
		w.model.violate("foreign", "socket %s of %s can use %s, which belongs to another workload", k.name, p.in.path, addr)
		k.peer = &modelPeer{expected: []destination{}, odd: true}
	}
}

func (w *runner) runReclaim(step) {
	if w.model.phase != phaseRunning {
		return
	}
	if err := w.inst.Collect(); err != nil {
		w.model.violate("instance", "collect: %v", err)
	}
}
