// SPDX-License-Identifier: Apache-2.0

package intercept

import (
	"net/netip"
	"os"
	"reflect"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/cilium/ebpf/btf"

	"sotto/intercept/cgroup"
	"sotto/intercept/network"
	"sotto/intercept/references"
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

// All processes of an instance mark packets alike, and those of two instances do not.
func TestPacketMark(t *testing.T) {
	if a, b := packetMark("sotto"), packetMark("sotto2"); a != packetMark("sotto") || a == b || a == 0 || b == 0 {
		t.Errorf("marks %x and %x", a, b)
	}
	marks := func() (marks [2]any) {
		cfg := Config{Name: "sotto", Prefix4: netip.MustParsePrefix("198.18.0.0/16"), Prefix6: netip.MustParsePrefix("fd00::/112")}
		k := &kernel{count: 1 << 16}
		k.refs = references.New(prefixesOf(&cfg), k.count)
		spec, err := k.spec(&cfg, loadSotto)
		if err != nil {
			t.Fatal(err)
		}
		for i, name := range []string{sottoVarBackMark, sottoVarVirtualTag} {
			value := reflect.New(reflect.TypeFor[uint32]())
			if i == 1 {
				value = reflect.New(reflect.TypeFor[uint16]())
			}
			if err := spec.Variables[name].Get(value.Interface()); err != nil {
				t.Fatal(err)
			}
			marks[i] = value.Elem().Interface()
		}
		return marks
	}
	if a, b := marks(), marks(); a != b {
		t.Errorf("marks %v of one process and %v of the next", a, b)
	}
}

// Constants that Go and C share have the same values.
func TestSharedConstants(t *testing.T) {
	for name, c := range map[string]struct {
		file string
		want int
	}{
		"LAYOUT":     {"settings.h", layoutVersion},
		"MAX_PORTS":  {"settings.h", MaxPorts},
		"MAX_SLOTS":  {"settings.h", maxSlots},
		"MAX_LEVELS": {"settings.h", cgroup.MaxLevels},

		"SENDER_DELAY_NS": {"callers.h", int(senderDelay)},
	} {
		src, err := os.ReadFile("../bpf/" + c.file)
		if err != nil {
			t.Fatal(err)
		}
		m := regexp.MustCompile(`(?m)^#define ` + name + ` (\d+)(?:ULL)?$`).FindSubmatch(src)
		if m == nil {
			t.Errorf("%s: no %s", c.file, name)
			continue
		}
		if got, _ := strconv.Atoi(string(m[1])); got != c.want {
			t.Errorf("%s is %d in C and %d in Go", name, got, c.want)
		}
	}
}

// Origin reads memory that is mapped, for any address.
func TestOrigin(t *testing.T) {
	s := openSeal(t, nil)
	s.client(t).Want("socket a udp4 => ok\nconnect a 8.8.8.8:53 => ok")
	want := Origin{Addr: netip.MustParseAddrPort("8.8.8.8:53"), CgroupID: s.group.ID}
	slot := network.NthAddr(s.cfg.Prefix4, network.FirstSlot)
	for _, addr := range []netip.Addr{slot, netip.AddrFrom16(slot.As16())} {
		if got, ok := s.Origin(addr); !ok || got != want {
			t.Errorf("%s stands for %v, %t; want %v", addr, got, ok, want)
		}
	}
	for _, addr := range []string{"198.18.252.0", "198.18.252.5", "198.18.255.255", "8.8.8.8", "::1", "fd73:6f74:746f:fff::4", "fd73:6f74:746f:fff:1::4"} {
		if got, ok := s.Origin(netip.MustParseAddr(addr)); ok {
			t.Errorf("%s stands for %v", addr, got)
		}
	}
	if got, ok := s.Origin(netip.Addr{}); ok {
		t.Errorf("no address stands for %v", got)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if _, ok := s.Origin(slot); !ok { // a listener that drains may still call it
		t.Error("Origin does not work after Close")
	}
}
