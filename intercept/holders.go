// SPDX-License-Identifier: Apache-2.0

package intercept

import (
	"errors"
	"fmt"
	"net/netip"
	"time"

	"sotto/bpf"
)

// endStrays ends sockets that are connected to virtual addresses which an earlier process
// gave out, where nothing is known of that any more. What cannot be ended the guard stops:
// it holds no slot.
func (i *Instance) endStrays() {
	if i.kernel.adopted || i.cfg.Ephemeral {
		return
	}
	dirs := append(newRecord(&i.cfg, i.groups).directories(), i.previous...)
	ended, err := endVirtualSockets(i.workloads, dirs, i.cfg.Prefix4, i.cfg.Prefix6)
	if err != nil {
		i.cfg.Log.Warn("cannot end every socket that an earlier process redirected; what it sends is stopped, until its program connects again", "err", err)
	}
	if ended > 0 {
		i.cfg.Log.Info("ended sockets that an earlier process redirected", "sockets", ended)
	}
}

// endHolders ends the sockets that are connected to this instance's virtual addresses: what
// they send would follow the default route once the instance's own is removed. Among them are
// sockets that hold no slot any more, since their programs closed them, and whose queries the
// kernel sends again until they are acknowledged. It reports whether some are left; then
// nothing for a virtual address leaves its cgroup any more.
func (i *Instance) endHolders() (stays bool, err error) {
	if used, err := i.kernel.everUsed(); err == nil && !used {
		return false, nil
	}
	end := func() (int, error) {
		return endVirtualSockets(i.workloads, newRecord(&i.cfg, i.groups).directories(), i.cfg.Prefix4, i.cfg.Prefix6)
	}
	survived := 0
	ended, err := end()
	if ended > 0 {
		i.cfg.Log.Info("ended sockets that were connected through the seal", "sockets", ended)
		var again error
		survived, again = end() // a kernel may say so, and leave what is closed already
		err = errors.Join(err, again)
	}
	left, err := i.kernel.connectedSockets(err)
	if left += survived; left == 0 && err == nil {
		return false, nil
	}
	i.cfg.Log.Warn("sockets of sealed programs cannot be ended; what keeps their queries on this machine stays until they are closed: "+
		"end those programs and run 'sotto down', or start Sotto again", "sockets", left, "err", err)
	return true, i.guard.shut()
}

// lateTime is how long a connect may take from its hook to its first packet: microseconds,
// or a few turns of a processor that is busy.
const lateTime = 250 * time.Millisecond

// endLate ends sockets whose connect had passed its hook, and had not come further, when
// endHolders looked. It is called while virtual addresses are unreachable, so that none can
// have sent anything yet. What runs in a command's cgroup has been killed by then.
func (i *Instance) endLate() {
	used, err := i.kernel.everUsed()
	if i.cfg.Ephemeral || err == nil && !used {
		return
	}
	time.Sleep(lateTime)
	_, err = endVirtualSockets(i.workloads, newRecord(&i.cfg, i.groups).directories(), i.cfg.Prefix4, i.cfg.Prefix6)
	if err != nil {
		i.cfg.Log.Warn("cannot look for sockets that were being connected", "err", err)
	}
}

// everUsed reports whether any slot was given out, by this process or by those that it took
// the maps over from.
func (k *kernel) everUsed() (bool, error) {
	counters, err := k.counters()
	used := counters[counterNames[bpf.SottoCounterCOUNT_SLOT_NEW]] > 0
	return used, errors.Join(err, k.eachSlot(func(s slotState) { used = used || s.Used != 0 }))
}

// connectedSockets counts the sockets that are connected to virtual addresses, and not closed
// by their programs. Where the kernel cannot say, there are none if all that were found could
// be ended.
func (k *kernel) connectedSockets(ending error) (int, error) {
	held := false
	if err := k.eachSlot(func(s slotState) { held = held || s.Used != 0 && s.Refs > 0 }); err != nil {
		return 0, errors.Join(ending, err)
	}
	if !held || !canCountReferences() {
		return 0, ending
	}
	_, peers, err := k.refs.tally(k.Connected, k.Replaced)
	if err != nil {
		return 0, errors.Join(ending, err)
	}
	if peers == 0 {
		return 0, nil
	}
	return int(peers), ending
}

// endLeftSockets ends the sockets that a dead instance left connected to its virtual
// addresses.
func endLeftSockets(rec record, prefixes []netip.Prefix) error {
	root, err := CgroupRoot()
	if err != nil {
		return nil // no cgroup2, no seal
	}
	w, err := newWorkloads(root)
	if err != nil {
		return err
	}
	_, err = endVirtualSockets(w, rec.directories(), prefixes...)
	if err = errors.Join(err, w.close()); err != nil {
		return fmt.Errorf("%w; end the programs that have these sockets, and run 'sotto down' again", err)
	}
	return nil
}
