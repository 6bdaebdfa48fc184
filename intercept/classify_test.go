// SPDX-License-Identifier: Apache-2.0

package intercept

import (
	"net/netip"
	"testing"
)

// After a crash the kernel may have asked the dead process for the class of a slot. The next process
// reads that before it has attached its hooks.
func TestClassAskedOfEarlierProcess(t *testing.T) {
	s := openSeal(t, func(cfg *Config) {
		cfg.Hits = &Hits{
			Entries: 1024, Started: func() {}, Evicted: func([]byte) {}, Used: func([]byte, uint64) {},
			Classify: func(netip.Addr) (uint32, string) { return 0, "" },
		}
	})
	if table, reason := s.Hits(); table == nil {
		t.Skipf("the kernel answers nothing: %s", reason)
	}
	c := s.client(t)
	c.Want("socket a udp4 => ok\nconnect a 8.8.8.8:53 => ok")
	s.stopListening()
	if err := s.Abandon(); err != nil {
		t.Fatal(err)
	}
	next := openAt(t, s.host, s.cfg)
	var used []uint32
	err := next.kernel.eachSlot(func(slot slotState) {
		if slot.Used != 0 {
			used = append(used, slot.idx)
		}
	})
	if err != nil || len(used) == 0 {
		t.Fatalf("used slots: %v, %v", used, err)
	}
	next.classify(used[0])
	listen(t, next)
	if err := next.Attach(); err != nil {
		t.Fatal(err)
	}
	next.classify(used[0])
	if len(next.hits.slots) != 1 {
		t.Errorf("after Attach %d slots have a class, want 1", len(next.hits.slots))
	}
}
