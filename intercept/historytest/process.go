// SPDX-License-Identifier: Apache-2.0

package historytest

import (
	"maps"
	"strings"
)

func (w *runner) runPass(s step) {
	p, k, ok := w.model.held(s.proc, s.sock)
	if !ok || w.model.processes[s.other] == nil || len(w.model.processes[s.other].inbox) > 5 {
		return
	}
	if got := w.do(s.proc, "pass %s %s", s.sock, w.inbox(s.other)); got != "ok" {
		w.model.violate("instance", "%s passes %s: %s", p.name, k.name, got)
		return
	}
	to := w.model.processes[s.other]
	to.inbox = append(to.inbox, k.name)
}

func (w *runner) runReceive(s step) {
	p := w.model.processes[s.proc]
	if len(p.inbox) == 0 {
		return
	}
	if got := w.do(s.proc, "receive"); got != p.inbox[0] {
		w.model.violate("instance", "%s receives %s: %s", p.name, p.inbox[0], got)
	}
	p.holds[p.inbox[0]] = true
	p.inbox = p.inbox[1:]
}

func (w *runner) runFork(s step) {
	p := w.model.processes[s.proc]
	child := childOf(s.proc)
	if w.model.processes[child] != nil {
		return
	}
	if got := w.do(s.proc, "fork %s", child); got != "ok" {
		w.model.violate("instance", "%s forks: %s", p.name, got)
		return
	}
	w.model.processes[child] = &process{name: child, in: p.in, holds: maps.Clone(p.holds)}
}

// runChildAsk sends a query from a child. Its parent may read the answer.
func (w *runner) runChildAsk(s step) {
	child, k, ok := w.model.held(childOf(s.proc), s.sock)
	if !ok || s.what == "" && k.peer == nil || s.what != "" && k.stream() {
		return
	}
	q := w.model.ask(w.number(1), child, k, s.what)
	got := w.do(s.proc, "childask %s %s %d %s", child.name, s.sock, q.number, s.what)
	// The child may get the error of an earlier query.
	if refused(got) && (got == "ECONNREFUSED" || w.model.phase == phaseRunning && w.exhausted()) {
		q.mustAnswer = false
	}
	w.model.asked(q, k, got, false)
	w.sent(q, false)
}

func (w *runner) runChildExit(s step) {
	child := w.model.processes[childOf(s.proc)]
	if child == nil {
		return
	}
	if got := w.do(s.proc, "childexit %s", child.name); got != "ok" {
		w.model.violate("instance", "%s exits: %s", child.name, got)
	}
	w.model.dropAll(child)
	delete(w.model.processes, child.name)
}

func (w *runner) runClose(s step) {
	if p, k, ok := w.model.held(s.proc, s.sock); ok {
		if got := w.do(s.proc, "close %s", s.sock); got != "ok" {
			w.model.violate("instance", "close %s: %s", k.name, got)
		}
		w.model.drop(p, s.sock)
	}
}

// runExit stops a process and its child, and starts another one in its place.
func (w *runner) runExit(s step) {
	w.runChildExit(s)
	p := w.model.processes[s.proc]
	w.clients[s.proc].Stop()
	w.model.dropAll(p)
	w.spawn(s.proc, p.in.group)
	w.leave(p.in)
}

// runRemove moves a process to another cgroup and removes its old one. Sockets that were opened
// there stay open.
func (w *runner) runRemove(s step) {
	w.runChildExit(s)
	w.move(s.proc, s.n%groupCount)
}

// move moves a process to a new cgroup, and removes its old one.
func (w *runner) move(proc string, group int) {
	p := w.model.processes[proc]
	was := p.in
	p.in = w.join(proc, group)
	w.leave(was)
}

// runChurn allocates and frees slots in a process, so that slots that others have freed are
// reused.
func (w *runner) runChurn(s step) {
	n := 1 + s.n%(2*poolSize)
	got := w.do(s.proc, "churn %d %d", n, n)
	p := w.model.processes[s.proc]
	if !strings.HasPrefix(got, "ok") && w.model.phase == phaseRunning && w.model.sealed().has(p.in.group) && !w.exhausted() {
		w.model.violate("refused", "%s churns: %s", s.proc, got)
	}
}
