// SPDX-License-Identifier: Apache-2.0

package historytest

import (
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	"sotto/intercept/network"
)

// run does steps from where every history starts, and closes everything after. It returns
// what did not hold, if anything.
func (w *world) run(steps []step) []violation {
	w.model.broken = nil
	w.model.step = -1
	w.rest()
	for _, s := range steps {
		for _, proc := range append([]string{s.proc, s.other}, s.storms...) {
			if proc == "" {
				continue
			}
			first := firstGroup[proc[len(proc)-1]]
			if w.clients[proc] == nil {
				w.spawn(proc, first)
			} else if w.model.parties[proc].in.group != first {
				w.move(proc, first) // where an earlier history left it
			}
		}
	}
	for n, s := range steps {
		w.model.step = n
		s.kind.run(w, s)
		w.judgeHeard()
	}
	w.finish()
	return w.model.broken
}

// firstGroup is where the processes of a history start, by the last letter of their names.
var firstGroup = map[byte]int{'a': groupA, 'b': groupInner, 'c': groupB}

// forget notes that all sockets are closed, and that no child is left.
func (m *model) forget() {
	clear(m.socks)
	for name, p := range m.parties {
		clear(p.holds)
		p.inbox = nil
		if isChild(name) {
			delete(m.parties, name)
		}
	}
}

// childOf names the child of a process.
func childOf(proc string) string { return proc + "'" }

func isChild(name string) bool { return strings.HasSuffix(name, "'") }

// How long a client waits for what is likely, and for what is not. No verdict is by them.
const (
	waitLikely = 300 * time.Millisecond
	waitUnsure = 4 * time.Millisecond
)

// wait is in milliseconds, and long for what must be, however slow the machine.
func (w *world) wait(must bool, otherwise time.Duration) int64 {
	if must {
		otherwise = w.patience
	}
	return otherwise.Milliseconds()
}

// waitFor is how long to wait for an answer.
func (w *world) waitFor(q *query) int64 {
	if q.mayLeave && (q.peer == nil || !q.peer.elsewhere) {
		return waitLikely.Milliseconds() // a nameserver of the LAN answers
	}
	return w.wait(q.sure, waitUnsure)
}

func (w *world) runOpen(s step) {
	p := w.model.parties[s.proc]
	if got := w.do(s.proc, "socket %s %s", s.sock, s.what); got != "ok" {
		w.model.violate("instance", "open a socket %s: %s", s.what, got)
		return
	}
	p.holds[s.sock] = true
	w.model.socks[s.sock] = &modelSocket{name: s.sock, kind: s.what, made: p.in, sent: make(map[int]*query)}
}

func (w *world) runConnect(s step) {
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

func (w *world) runElsewhere(s step) {
	s.what = strings.TrimSuffix(s.what, ":53") + ":5353"
	if p, k, ok := w.model.held(s.proc, s.sock); ok {
		w.model.connected(p, k, s.what, w.do(s.proc, "dial %s %d %s", s.sock, waitLikely.Milliseconds(), s.what))
	}
}

// runUnroutable connects to where no route leads: the hook has run by the time that the
// kernel refuses, and a socket that was connected stays so.
func (w *world) runUnroutable(s step) {
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

func (w *world) runDisconnect(s step) {
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

// duels bounds how often two threads try for the rare outcome: the kernel's connects in
// another order than the hooks.
const duels = 30

// runDuel has two threads of a process connect one socket at the same time.
func (w *world) runDuel(s step) {
	p, k, ok := w.model.held(s.proc, s.sock)
	if !ok {
		return
	}
	for range duels {
		got := strings.Fields(w.do(s.proc, "duel %s %s %s", s.sock, s.what, s.more))
		w.model.duelled(p, k, []string{s.what, s.more}, got)
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

// references reports whether any socket refers to the slot of a nameserver.
func (w *world) references(p *party, to netip.AddrPort) bool {
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

// runAsk asks and waits for the answer: by the connection, or with an address.
func (w *world) runAsk(s step) { w.query(s, true) }

// runSend asks, and leaves the answer unread.
func (w *world) runSend(s step) { w.query(s, false) }

func (w *world) query(s step, read bool) {
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
		q.sure = false
	}
	w.asked++
	w.model.asked(q, k, got, read)
	w.sent(q, read)
}

// refused reports whether a query was not even sent, as for the want of a slot.
func refused(result string) bool { return !strings.HasPrefix(result, "ok") }

// sent waits until a query that was sent is where it belongs.
func (w *world) sent(q *query, answered bool) {
	switch {
	case q.sure && answered:
		w.answered++
	case q.sure && !w.await(q.number):
		w.model.violate("silent", "%v: the listener never got it", q)
	case len(q.meanings) > 0:
		w.settle()
	}
}

func (w *world) runRead(s step) {
	if _, k, ok := w.model.held(s.proc, s.sock); ok {
		w.model.read(k, strings.Fields(w.do(s.proc, "replies %s 0", s.sock))[1:])
	}
}

// addresses are virtual ones that a socket may name: those of its user's workload, or
// those of others.
func (w *world) addresses(p *party, k *modelSocket, own bool) (addrs []string, means []meaning) {
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
			means = append(means, meaning{o.Addr, p.in})
		}
	}
	return addrs, means
}

// runOwnAddress connects or sends to a virtual address of the workload's own: it is as good
// as the nameserver that it stands for.
func (w *world) runOwnAddress(s step) {
	p, k, ok := w.model.held(s.proc, s.sock)
	if !ok || w.model.phase != phaseRunning || !w.model.hooked(k) {
		return
	}
	addrs, means := w.addresses(p, k, true)
	if len(addrs) == 0 {
		return
	}
	n := s.n % len(addrs)
	if !k.stream() && s.n%3 == 0 {
		q := w.model.ask(w.number(1), p, k, addrs[n])
		q.meanings, q.sure = []meaning{means[n]}, false
		q.sources = append(q.sources, means[n].nameserver)
		got := w.do(s.proc, "ask %s %d %d %s", s.sock, q.number, w.waitFor(q), addrs[n])
		w.model.asked(q, k, got, true)
		w.sent(q, false)
		return
	}
	got := w.do(s.proc, "dial %s %d %s", s.sock, waitLikely.Milliseconds(), addrs[n])
	next := &modelPeer{epoch: w.model.epoch, listener: w.model.listener, meanings: []meaning{means[n]}}
	k.use(unmapped(addrs[n]))
	w.model.settlePeer(k, next, got)
}

// runForeignAddress tries a virtual address of another workload.
func (w *world) runForeignAddress(s step) {
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
	if got := w.do(s.proc, verb, s.sock, waitUnsure.Milliseconds(), addr); !refused(got) {
		w.model.violate("foreign", "socket %s of %s gets through to %s of another workload", k.name, p.in.path, addr)
		k.peer = &modelPeer{meanings: []meaning{}, odd: true}
	}
}

func (w *world) runPass(s step) {
	p, k, ok := w.model.held(s.proc, s.sock)
	if !ok || w.model.parties[s.other] == nil || len(w.model.parties[s.other].inbox) > 5 {
		return
	}
	if got := w.do(s.proc, "pass %s %s", s.sock, w.inbox(s.other)); got != "ok" {
		w.model.violate("instance", "%s passes %s: %s", p.name, k.name, got)
		return
	}
	to := w.model.parties[s.other]
	to.inbox = append(to.inbox, k.name)
}

func (w *world) runTake(s step) {
	p := w.model.parties[s.proc]
	if len(p.inbox) == 0 {
		return
	}
	if got := w.do(s.proc, "take"); got != p.inbox[0] {
		w.model.violate("instance", "%s takes %s: %s", p.name, p.inbox[0], got)
	}
	p.holds[p.inbox[0]] = true
	p.inbox = p.inbox[1:]
}

func (w *world) runFork(s step) {
	p := w.model.parties[s.proc]
	child := childOf(s.proc)
	if w.model.parties[child] != nil {
		return
	}
	if got := w.do(s.proc, "fork %s", child); got != "ok" {
		w.model.violate("instance", "%s forks: %s", p.name, got)
		return
	}
	w.model.parties[child] = &party{name: child, in: p.in, holds: maps.Clone(p.holds)}
}

// runChildAsk has the child send; its parent may read the answer.
func (w *world) runChildAsk(s step) {
	child, k, ok := w.model.held(childOf(s.proc), s.sock)
	if !ok || s.what == "" && k.peer == nil || s.what != "" && k.stream() {
		return
	}
	q := w.model.ask(w.number(1), child, k, s.what)
	got := w.do(s.proc, "childask %s %s %d %s", child.name, s.sock, q.number, s.what)
	// An error of an earlier query is the child's to read.
	if refused(got) && (got == "ECONNREFUSED" || w.model.phase == phaseRunning && w.exhausted()) {
		q.sure = false
	}
	w.model.asked(q, k, got, false)
	w.sent(q, false)
}

func (w *world) runChildExit(s step) {
	child := w.model.parties[childOf(s.proc)]
	if child == nil {
		return
	}
	if got := w.do(s.proc, "childexit %s", child.name); got != "ok" {
		w.model.violate("instance", "%s exits: %s", child.name, got)
	}
	w.model.dropAll(child)
	delete(w.model.parties, child.name)
}

func (w *world) runClose(s step) {
	if p, k, ok := w.model.held(s.proc, s.sock); ok {
		if got := w.do(s.proc, "close %s", s.sock); got != "ok" {
			w.model.violate("instance", "close %s: %s", k.name, got)
		}
		w.model.drop(p, s.sock)
	}
}

// runExit ends a process with its child, and starts another in its place.
func (w *world) runExit(s step) {
	w.runChildExit(s)
	p := w.model.parties[s.proc]
	w.clients[s.proc].Stop()
	w.model.dropAll(p)
	w.spawn(s.proc, p.in.group)
	w.leave(p.in)
}

// runRemove has a process leave its cgroup, which is removed: what it and others have of
// sockets from there stays open.
func (w *world) runRemove(s step) {
	w.runChildExit(s)
	w.move(s.proc, s.n%groupCount)
}

// move has a process leave its cgroup for a new one.
func (w *world) move(proc string, group int) {
	p := w.model.parties[proc]
	was := p.in
	p.in = w.join(proc, group)
	w.leave(was)
}

// runChurn has a process take and give back slots in turn, so that those which others gave
// back soon stand for something else.
func (w *world) runChurn(s step) {
	n := 1 + s.n%(2*poolSize)
	got := w.do(s.proc, "churn %d %d", n, n)
	p := w.model.parties[s.proc]
	if !strings.HasPrefix(got, "ok") && w.model.phase == phaseRunning && w.model.sealed().has(p.in.group) && !w.exhausted() {
		w.model.violate("refused", "%s churns: %s", s.proc, got)
	}
}

func (w *world) runReclaim(step) {
	if w.model.phase != phaseRunning {
		return
	}
	if err := w.inst.Collect(); err != nil {
		w.model.violate("instance", "collect: %v", err)
	}
}

// in reports whether the instance is in one of the phases.
func (w *world) in(phases ...phase) bool { return slices.Contains(phases, w.model.phase) }

func (w *world) runStop(s step) {
	if w.in(phaseRunning) {
		w.change(s.storms, phaseStopped, 0, w.stop)
	}
}

func (w *world) runDetach(s step) {
	if w.in(phaseRunning) {
		w.change(s.storms, phaseDetached, 0, func() error { return w.inst.Detach() })
	}
}

func (w *world) runFinishStop(s step) {
	if w.in(phaseDetached) {
		w.change(s.storms, phaseStopped, 0, w.close)
	}
}

func (w *world) runKill(s step) {
	if w.in(phaseRunning) {
		w.change(s.storms, phaseCrashed, w.model.set, w.kill)
	}
}

func (w *world) runDown(s step) {
	if w.in(phaseCrashed) {
		w.change(s.storms, phaseStopped, 0, w.down)
	}
}

func (w *world) runStart(s step) {
	if w.in(phaseStopped, phaseCrashed) {
		w.change(s.storms, phaseRunning, s.set, func() error { return w.start(s.set) })
	}
}

func (w *world) runReplace(s step) {
	if w.in(phaseRunning) {
		set := s.set | w.model.set
		w.change(s.storms, phaseRunning, set, func() error { return w.replace(set) })
	}
}
