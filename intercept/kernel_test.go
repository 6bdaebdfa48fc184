// SPDX-License-Identifier: Apache-2.0

package intercept

import (
	"errors"
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/cilium/ebpf/btf"

	"sotto/bpf"
	"sotto/internal/netlab/labtest"
)

// The names of counters are those of the enum in the object.
func TestCounterNames(t *testing.T) {
	spec, err := bpf.LoadSotto()
	if err != nil {
		t.Fatal(err)
	}
	var enum *btf.Enum
	if err := spec.Types.TypeByName("counter", &enum); err != nil {
		t.Fatal(err)
	}
	if len(enum.Values) != len(counterNames)+1 {
		t.Errorf("%d counters have %d names", len(enum.Values)-1, len(counterNames))
	}
	for _, v := range enum.Values[:len(enum.Values)-1] {
		if want := strings.ToLower(strings.TrimPrefix(v.Name, "COUNT_")); counterNames[v.Value] != want {
			t.Errorf("counter %d is called %q, want %q", v.Value, counterNames[v.Value], want)
		}
	}
}

// Numbers that both halves know are the same in both.
func TestSharedConstants(t *testing.T) {
	for name, c := range map[string]struct {
		file string
		want int
	}{
		"LAYOUT":     {"settings.h", layoutVersion},
		"MAX_PORTS":  {"settings.h", maxPorts},
		"MAX_SLOTS":  {"settings.h", maxSlots},
		"MAX_LEVELS": {"settings.h", maxLevel},
	} {
		src, err := os.ReadFile("../bpf/" + c.file)
		if err != nil {
			t.Fatal(err)
		}
		m := regexp.MustCompile(`(?m)^#define ` + name + ` (\d+)$`).FindSubmatch(src)
		if m == nil {
			t.Errorf("%s: no %s", c.file, name)
			continue
		}
		if got, _ := strconv.Atoi(string(m[1])); got != c.want {
			t.Errorf("%s is %d in C and %d in Go", name, got, c.want)
		}
	}
}

// A kernel that loads the programs lacks nothing, and every probe can tell.
func TestNeeds(t *testing.T) {
	labtest.NeedRoot(t)
	for _, n := range needs() {
		if err := n.probe(); err != nil {
			t.Errorf("%s: %v", n.what, err)
		}
	}
	if err := passProgram(0, 0); err == nil {
		t.Error("a program of no type passes")
	}
	if got := missing(need{what: "getpeername hook", since: "5.8"}, "5.4.0-42").Error(); got !=
		"this kernel (5.4.0-42) has no getpeername hook: Linux 5.8 or newer with CONFIG_CGROUP_BPF is needed" {
		t.Error(got)
	}
	if kernelRelease() == "unknown" {
		t.Error("no release")
	}
	cause := errors.New("why")
	if got := explain(cause); got != cause {
		t.Errorf("explained what nobody knows: %v", got)
	}
}

func TestLinkPins(t *testing.T) {
	pin := linkPin("/sys/fs/bpf/sotto/sotto", "connect4", 0x1a2b)
	if pin != "/sys/fs/bpf/sotto/sotto/link_connect4_1a2b" {
		t.Error(pin)
	}
	if id, ok := linkGroup(pin); !ok || id != 0x1a2b {
		t.Errorf("%s is of cgroup %x, %t", pin, id, ok)
	}
	for _, other := range []string{mapPin("/x", "slots"), "/x/link_connect4_", "/x/link_connect4_zz", "/x/link_"} {
		if _, ok := linkGroup(other); ok {
			t.Errorf("%s passes for a hook", other)
		}
	}
}
