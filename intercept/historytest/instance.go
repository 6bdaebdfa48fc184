// SPDX-License-Identifier: Apache-2.0

package historytest

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"sotto/intercept/sockets"
	"sotto/internal/netlab"
)

// change calls does, which changes the instance, while some processes send queries, and
// records the new phase and set.
func (w *runner) change(storms []string, next phase, set sealSet, does func() error) {
	before, after := w.model.sealed(), sealedIn(next, set)
	w.mark(before & after)
	ranges := w.startStorms(storms, before&after)
	err := does()
	w.stopStorms(storms, ranges)
	if err != nil {
		w.model.violate("instance", "%v", err)
	}
	w.settle()
	w.checkReceived()
	w.model.phase, w.model.set = next, set
	w.mark(after)
}

func (w *runner) mark(sealed sealSet) {
	if err := w.recording.mark(sealed, w.model.step); err != nil {
		w.t.Fatal(err)
	}
}

// stormSize limits the number of queries of one storm.
const stormSize = 100_000

// startStorms starts storms in processes. always are the cgroups that are sealed before and
// after the change.
func (w *runner) startStorms(procs []string, always sealSet) (ranges []*stormRange) {
	for n, proc := range procs {
		p := w.model.processes[proc]
		kind := []string{"udp4", "tcp4", "udp6", "mptcp4"}[(w.lastNumber+n)%4]
		if w.without["mptcp"] && kind == "mptcp4" {
			kind = "udp4"
		}
		r := &stormRange{first: w.number(stormSize), step: w.model.step, who: p.in, mayLeave: !always.has(p.in.group)}
		for at := range nameservers {
			r.nameservers = append(r.nameservers, nsAddr(p.in.group, at, strings.HasSuffix(kind, "6")))
		}
		r.last = r.first + stormSize
		w.model.storms = append(w.model.storms, r)
		w.do(proc, "storm %d %s %s", r.first, kind, strings.Join(r.nameservers, ","))
		ranges = append(ranges, r)
	}
	if len(procs) > 0 {
		time.Sleep(2 * time.Millisecond) // so that some sockets exist
	}
	return ranges
}

func (w *runner) stopStorms(procs []string, ranges []*stormRange) {
	for n, proc := range procs {
		f := strings.Fields(w.do(proc, "endstorm"))
		ranges[n].last = atoi(f[0])
		w.stormed += ranges[n].last - ranges[n].first
		// While hooks are attached or detached, a reply may come from the virtual address.
		if ranges[n].mayLeave {
			continue
		}
		for _, wrong := range f[1:] {
			w.model.violate("reply", "a storm of %s read %s", proc, wrong)
		}
	}
}

// nsAddr returns the address and port of a nameserver.
func nsAddr(group, n int, six bool) string {
	if six {
		return fmt.Sprintf("[%s]:53", nameserver(group, n, true))
	}
	return fmt.Sprintf("%s:53", nameserver(group, n, false))
}

// start starts an instance. It adopts the leftovers of a killed one.
func (w *runner) start(set sealSet) error {
	i, err := w.open(set)
	if err != nil {
		return err
	}
	w.inst = i
	w.setAnswers(i)
	if !i.Adopted() {
		w.model.epoch++
	}
	w.model.listener++
	if w.responder, err = startResponder(answerTag, i.Do, w.seen); err != nil {
		return err
	}
	return i.Attach()
}

// replace lets another instance take over, like a successor process, with the same listener.
func (w *runner) replace(set sealSet) error {
	old := w.inst
	if err := old.Release(); err != nil {
		return err
	}
	i, err := w.open(set)
	if err != nil {
		return errors.Join(err, old.Reclaim())
	}
	if !i.Adopted() {
		w.model.epoch++
	}
	w.inst = i
	w.setAnswers(i)
	return errors.Join(i.Attach(), old.Close())
}

// setAnswers sets the instance that the listener asks about queries, and waits for answers of the one before: when that is closed
// it knows nothing any more. Nil: none, the queries are lost.
func (w *runner) setAnswers(i Instance) {
	w.lookups.Lock()
	defer w.lookups.Unlock()
	w.answers = i
}

// close is the second half of a clean stop.
func (w *runner) close() error {
	w.setAnswers(nil)
	err := w.inst.Close()
	w.responder.close()
	w.inst, w.responder = nil, nil
	return err
}

// stop is a complete clean stop.
func (w *runner) stop() error { return errors.Join(w.inst.Detach(), w.close()) }

// kill leaves everything in the kernel, like a crash.
func (w *runner) kill() error {
	w.setAnswers(nil)
	err := w.inst.Abandon()
	w.responder.close()
	w.inst, w.responder = nil, nil
	return err
}

// prepare brings the instance to the state in which every history starts.
func (w *runner) prepare() {
	if w.model.phase == phaseRunning && w.model.set == startSet {
		return
	}
	switch w.model.phase {
	case phaseRunning:
		w.change(nil, phaseStopped, 0, w.stop)
	case phaseDetached:
		w.change(nil, phaseStopped, 0, w.close)
	}
	w.change(nil, phaseRunning, startSet, func() error { return w.start(startSet) })
}

// startSet is the set that is sealed when a history starts.
const startSet = sealSet(1<<groupA | 1<<groupB)

// reset removes everything that a violation may have left, and starts again.
func (w *runner) reset() {
	for _, c := range w.clients {
		c.Stop()
	}
	clear(w.clients)
	if w.inst != nil {
		if err := w.stop(); err != nil {
			w.t.Fatal(err)
		}
	}
	if err := w.down(); err != nil {
		w.t.Fatal(err)
	}
	w.purge()
	w.mark(0)
	w.recording.seen = w.recording.looked
	m := newModel()
	m.epoch, m.listener = w.model.epoch, w.model.listener
	w.model = m
}

// purge destroys sockets that are still connected to virtual addresses.
func (w *runner) purge() {
	for _, at := range []*netlab.Host{w.host, w.container} {
		err := at.Do(func() error {
			for _, family := range []uint8{unix.AF_INET, unix.AF_INET6} {
				for _, protocol := range []uint8{unix.IPPROTO_UDP, unix.IPPROTO_TCP} {
					found, err := sockets.List(family, protocol)
					if err != nil {
						return err
					}
					for _, s := range found {
						if remote := s.Remote.Addr(); w.settings.Prefix4.Contains(remote) || w.settings.Prefix6.Contains(remote) {
							_ = s.Destroy() // it may have been closed
						}
					}
				}
			}
			return nil
		})
		if err != nil {
			w.t.Fatal(err)
		}
	}
}

// end removes the instance when the test ends.
func (w *runner) end() {
	var err error
	if w.inst != nil {
		err = w.stop()
	}
	if err = errors.Join(err, w.down()); err != nil {
		w.t.Errorf("remove the instance: %v", err)
	}
}

// finish closes all sockets, and checks that all slots are free.
func (w *runner) finish() {
	for _, proc := range slices.Sorted(maps.Keys(w.clients)) {
		if got := w.do(proc, "reset"); got != "ok" {
			w.model.violate("instance", "%s closes its sockets: %s", proc, got)
		}
	}
	w.model.forget()
	if w.model.phase == phaseCrashed {
		w.change(nil, phaseRunning, w.model.set, func() error { return w.start(w.model.set) })
	}
	if w.model.phase == phaseRunning {
		w.settle()
		var err error
		for end := time.Now().Add(w.timeout); ; time.Sleep(5 * time.Millisecond) {
			if err = w.checkFree(); err == nil || time.Now().After(end) {
				break
			}
		}
		if err != nil {
			w.model.violate("held", "all sockets are closed, but: %v", err)
		}
	}
	w.checkReceived()
	w.mark(w.model.sealed())
	w.recording.check(w.model, w.settings.Prefix4, w.settings.Prefix6)
}

// in reports whether the instance is in one of the given phases.
func (w *runner) in(phases ...phase) bool { return slices.Contains(phases, w.model.phase) }

func (w *runner) runStop(s step) {
	if w.in(phaseRunning) {
		w.change(s.storms, phaseStopped, 0, w.stop)
	}
}

func (w *runner) runDetach(s step) {
	if w.in(phaseRunning) {
		w.change(s.storms, phaseDetached, 0, func() error { return w.inst.Detach() })
	}
}

func (w *runner) runFinishStop(s step) {
	if w.in(phaseDetached) {
		w.change(s.storms, phaseStopped, 0, w.close)
	}
}

func (w *runner) runKill(s step) {
	if w.in(phaseRunning) {
		w.change(s.storms, phaseCrashed, w.model.set, w.kill)
	}
}

func (w *runner) runDown(s step) {
	if w.in(phaseCrashed) {
		w.change(s.storms, phaseStopped, 0, w.down)
	}
}

func (w *runner) runStart(s step) {
	if w.in(phaseStopped, phaseCrashed) {
		w.change(s.storms, phaseRunning, s.set, func() error { return w.start(s.set) })
	}
}

func (w *runner) runReplace(s step) {
	if w.in(phaseRunning) {
		set := s.set | w.model.set
		w.change(s.storms, phaseRunning, set, func() error { return w.replace(set) })
	}
}
