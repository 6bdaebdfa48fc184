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

// change does something to the instance while some processes go on asking, and notes what
// is the case then.
func (w *world) change(storms []string, next phase, set sealSet, does func() error) {
	before, after := w.model.sealed(), sealedIn(next, set)
	w.mark(before & after)
	ranges := w.startStorms(storms, before&after)
	err := does()
	w.stopStorms(storms, ranges)
	if err != nil {
		w.model.violate("instance", "%v", err)
	}
	w.settle()
	w.judgeHeard()
	w.model.phase, w.model.set = next, set
	w.mark(after)
}

func (w *world) mark(sealed sealSet) {
	if err := w.tape.mark(sealed, w.model.step); err != nil {
		w.t.Fatal(err)
	}
}

// stormSize bounds the queries of one storm.
const stormSize = 100_000

// startStorms has processes ask without a pause. always are the cgroups that are sealed all
// the while.
func (w *world) startStorms(procs []string, always sealSet) (ranges []*stormRange) {
	for n, proc := range procs {
		p := w.model.parties[proc]
		kind := []string{"udp4", "tcp4", "udp6", "mptcp4"}[(w.serial+n)%4]
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
		time.Sleep(2 * time.Millisecond) // so that some sockets are there
	}
	return ranges
}

func (w *world) stopStorms(procs []string, ranges []*stormRange) {
	for n, proc := range procs {
		f := strings.Fields(w.do(proc, "calm"))
		ranges[n].last = atoi(f[0])
		w.stormed += ranges[n].last - ranges[n].first
		// While hooks come or go a reply may carry the virtual address.
		if ranges[n].mayLeave {
			continue
		}
		for _, wrong := range f[1:] {
			w.model.violate("reply", "a storm of %s read %s", proc, wrong)
		}
	}
}

// nsAddr is a nameserver's address and port.
func nsAddr(group, n int, six bool) string {
	if six {
		return fmt.Sprintf("[%s]:53", nameserver(group, n, true))
	}
	return fmt.Sprintf("%s:53", nameserver(group, n, false))
}

// start starts an instance, over what a killed one left if need be.
func (w *world) start(set sealSet) error {
	i, err := w.open(set)
	if err != nil {
		return err
	}
	w.inst = i
	w.mu.Lock()
	w.answers = i
	w.mu.Unlock()
	if !i.Adopted() {
		w.model.epoch++
	}
	w.model.listener++
	if w.answerer, err = startAnswerer(answerTag, i.Do, w.seen); err != nil {
		return err
	}
	return i.Attach()
}

// replace has another instance take over, as another process does, with the same listener.
func (w *world) replace(set sealSet) error {
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
	w.mu.Lock()
	w.answers = i
	w.mu.Unlock()
	return errors.Join(i.Attach(), old.Close())
}

// close ends a clean stop.
func (w *world) close() error {
	err := w.inst.Close()
	w.answerer.close()
	w.inst, w.answerer = nil, nil
	return err
}

// stop is a whole one.
func (w *world) stop() error { return errors.Join(w.inst.Detach(), w.close()) }

// kill leaves everything as it is, as kill -9 does.
func (w *world) kill() error {
	err := w.inst.Abandon()
	w.answerer.close()
	w.inst, w.answerer = nil, nil
	return err
}

// rest brings the instance to where every history starts.
func (w *world) rest() {
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

// startSet is what is sealed when a history starts.
const startSet = sealSet(1<<groupA | 1<<groupB)

// renew takes everything away that a violation may have left, and starts anew.
func (w *world) renew() {
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
	w.tape.seen = w.tape.looked
	m := newModel()
	m.epoch, m.listener = w.model.epoch, w.model.listener
	w.model = m
}

// purge destroys what is left of connections to virtual addresses.
func (w *world) purge() {
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
							_ = s.Destroy() // it may just go
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

// end takes the instance away when the test ends.
func (w *world) end() {
	var err error
	if w.inst != nil {
		err = w.stop()
	}
	if err = errors.Join(err, w.down()); err != nil {
		w.t.Errorf("take the instance away: %v", err)
	}
}

// finish closes everything, and looks whether every slot is free.
func (w *world) finish() {
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
		for end := time.Now().Add(w.patience); ; time.Sleep(5 * time.Millisecond) {
			if err = w.freeSlots(); err == nil || time.Now().After(end) {
				break
			}
		}
		if err != nil {
			w.model.violate("held", "everything is closed, and yet: %v", err)
		}
	}
	w.judgeHeard()
	w.mark(w.model.sealed())
	w.tape.judge(w.model, w.settings.Prefix4, w.settings.Prefix6)
}
