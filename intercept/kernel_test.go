// SPDX-License-Identifier: Apache-2.0

package intercept

import (
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/cilium/ebpf/btf"

	"sotto/intercept/cgroup"
)

// The names of the counters match the enum in the BPF object.
func TestCounterNames(t *testing.T) {
	spec, err := loadSotto()
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

// Constants that Go and C share have the same values.
func TestSharedConstants(t *testing.T) {
	for name, c := range map[string]struct {
		file string
		want int
	}{
		"LAYOUT":     {"settings.h", layoutVersion},
		"MAX_PORTS":  {"settings.h", maxPorts},
		"MAX_SLOTS":  {"settings.h", maxSlots},
		"MAX_LEVELS": {"settings.h", cgroup.MaxLevels},
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
