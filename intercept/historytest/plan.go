// SPDX-License-Identifier: Apache-2.0

package historytest

import (
	"slices"
	"strings"
)

func planFork(g *generator, s *step) bool {
	h := g.of(s)
	g.proc(s)
	if h.child[s.proc] != nil {
		return false
	}
	held := []*plannedSocket{}
	for _, k := range h.socks {
		if slices.Contains(k.holders, s.proc) {
			held = append(held, k)
		}
	}
	h.child[s.proc] = held
	return len(held) > 0
}

func planChild(g *generator, s *step) bool {
	g.proc(s)
	was := g.of(s).child[s.proc]
	delete(g.of(s).child, s.proc)
	return was != nil
}

func planChildAsk(g *generator, s *step) bool {
	g.proc(s)
	held := g.of(s).child[s.proc]
	if len(held) == 0 {
		return false
	}
	k := held[g.IntN(len(held))]
	s.sock = k.name
	if !k.stream() && !k.connected {
		s.what = g.nameserver(k, false)
	}
	return true
}

func planProc(g *generator, s *step) bool {
	g.proc(s)
	return true
}

func planExit(g *generator, s *step) bool {
	g.proc(s)
	h := g.of(s)
	delete(h.child, s.proc)
	h.inbox[s.proc] = nil
	for _, k := range h.socks {
		k.holders = slices.DeleteFunc(k.holders, func(p string) bool { return p == s.proc })
	}
	g.sweep(h)
	return true
}

// planRemove moves a process to a new cgroup in one of the groups.
func planRemove(g *generator, s *step) bool {
	h := g.of(s)
	n := g.proc(s)
	delete(h.child, s.proc)
	h.groups[n] = g.IntN(groupCount)
	s.n = h.groups[n]
	return true
}

func planIn(p phase) func(*generator, *step) bool {
	return func(g *generator, _ *step) bool { return g.phase == p }
}

// sameSet, otherSet and widerSet select what is sealed after a step of the instance.
func sameSet(g *generator) sealSet {
	if g.phase == phaseStopped {
		return startSet
	}
	return g.set
}

func otherSet(g *generator) sealSet { return sealSet(1 + g.IntN(1<<groupCount-1)) }

// widerSet contains what is sealed now, because a takeover is refused otherwise.
func widerSet(g *generator) sealSet { return g.set | sealSet(g.IntN(1<<groupCount)) }

// planInstance plans a step of the instance from one of the given phases to another one. set is
// nil if nothing is sealed afterwards.
func planInstance(set func(*generator) sealSet, to phase, from ...phase) func(*generator, *step) bool {
	return func(g *generator, s *step) bool {
		if !slices.Contains(from, g.phase) {
			return false
		}
		if set != nil {
			s.set = set(g)
		}
		g.phase, g.set = to, s.set
		if g.IntN(3) == 0 {
			for range 2 {
				h := g.histories[g.IntN(len(g.histories))]
				if proc := h.procs[g.IntN(3)]; !slices.Contains(s.storms, proc) {
					s.storms = append(s.storms, proc)
				}
			}
		}
		return true
	}
}

// hasName reports whether a path is that of the workload, or if it was removed, that of an
// ancestor.
func (w *workload) hasName(name string, own bool) bool {
	if own {
		return name == w.path
	}
	above, ok := strings.CutSuffix(name, removedSuffix)
	return ok && w.removed && strings.HasPrefix(w.path, above)
}
