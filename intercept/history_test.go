// SPDX-License-Identifier: Apache-2.0

package intercept

import (
	"errors"
	"fmt"
	"net/netip"
	"testing"

	"sotto/intercept/historytest"
	"sotto/intercept/references"
	"sotto/internal/netlab/labtest"
)

// TestHistories runs random histories of sockets, processes, cgroups and instances, and checks
// the properties that package historytest lists.
func TestHistories(t *testing.T) {
	labtest.NeedRoot(t)
	cfg := testConfig(t)
	counter := references.New(references.Prefixes{}, 1)
	noRecount := errors.Is(counter.Load(), references.ErrUnsupported)
	if err := counter.Close(); err != nil {
		t.Fatal(err)
	}
	historytest.Run(t, historytest.Subject{
		NoRecount: noRecount,
		Open: func(s historytest.Settings) (historytest.Instance, error) {
			cfg := cfg
			cfg.Cgroups, cfg.Prefix4, cfg.Prefix6, cfg.Linger = s.Cgroups, s.Prefix4, s.Prefix6, s.Linger
			i, err := Open(t.Context(), cfg)
			return historyInstance{i}, err
		},
		Down: func() error { return downRecorded(cfg) },
	})
}

// historyInstance implements historytest.Instance.
type historyInstance struct{ *Instance }

func (i historyInstance) Adopted() bool { return i.kernel.adopted }

func (i historyInstance) Collect() error {
	return errors.Join(i.kernel.collect(i.cfg.Linger), i.forgetRemoved())
}

func (i historyInstance) OriginOf(local netip.Addr) (historytest.Origin, bool) {
	o, ok := i.Origin(local)
	return historytest.Origin{Addr: o.Addr, CgroupID: o.CgroupID}, ok
}

func (i historyInstance) Slot(idx uint32) (used bool, refs uint32) {
	var slot sottoSlot
	if i.kernel.Slots.Lookup(idx, &slot) != nil {
		return false, 0
	}
	return slot.Used != 0, slot.Refs
}

func (i historyInstance) SlotsUsed() (used, refs int, err error) { return i.kernel.slotsUsed() }

func (i historyInstance) TakeFreeSlot() (idx uint32, ok bool) {
	err := i.kernel.FreeSlots.LookupAndDelete(nil, &idx)
	return idx, err == nil
}

func (i historyInstance) PutFreeSlot(idx uint32) error { return i.kernel.FreeSlots.Put(nil, idx) }

func (i historyInstance) CheckUnused() error {
	var id uint64
	var share sottoShare
	for it := i.kernel.Shares.Iterate(); it.Next(&id, &share); {
		if share.Held != 0 {
			return fmt.Errorf("%d slots are counted for cgroup %d", share.Held, id)
		}
	}
	var key sottoKey
	var idx uint32
	if it := i.kernel.Forward.Iterate(); it.Next(&key, &idx) {
		return fmt.Errorf("a hint is left: %v to slot %d", key, idx)
	}
	return nil
}
