// SPDX-License-Identifier: Apache-2.0

package pins

import "testing"

func TestHookPins(t *testing.T) {
	pin := Hook("/sys/fs/bpf/sotto/sotto", "connect4", 0x1a2b)
	if pin != "/sys/fs/bpf/sotto/sotto/link_connect4_1a2b" {
		t.Error(pin)
	}
	if id, ok := CgroupOf(pin); !ok || id != 0x1a2b {
		t.Errorf("%s: cgroup %x, %t", pin, id, ok)
	}
	for _, other := range []string{Map("/x", "slots"), "/x/link_connect4_", "/x/link_connect4_zz", "/x/link_"} {
		if _, ok := CgroupOf(other); ok {
			t.Errorf("%s was accepted as the pin of a hook", other)
		}
	}
}
