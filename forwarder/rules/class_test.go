// SPDX-License-Identifier: Apache-2.0

package rules

import (
	"slices"
	"testing"
)

// TestClass checks that two pairs of a workload and a nameserver with the same class match the same
// rules, whatever else is asked.
func TestClass(t *testing.T) {
	same := 0
	for i := range uint64(2000) {
		d := &dice{randomBytes(i, 900)}
		var rules []Rule
		for range 1 + d.roll(6) {
			r := d.rule()
			r.Workloads = slices.DeleteFunc(r.Workloads, func(s string) bool { _, err := compileGlob(s); return err != nil })
			r.Pods, r.PodLabels, r.NamespaceLabels, r.OptedOut = nil, nil, nil, false
			rules = append(rules, r)
		}
		s, err := Compile(rules)
		if err != nil {
			t.Fatal(err)
		}
		for range 8 {
			a, b := d.query(), d.query()
			if string(s.AppendClass(nil, a.Workload, a.Nameserver)) != string(s.AppendClass(nil, b.Workload, b.Nameserver)) {
				continue
			}
			other := a
			other.Workload, other.Nameserver = b.Workload, b.Nameserver
			if x, y := s.Match(a), s.Match(other); x != y {
				t.Fatalf("%+v\nmatches %d\n%+v\nmatches %d, and has the same class\nrules %+v", a, x, other, y, rules)
			}
			same++
		}
	}
	if same < 1000 {
		t.Errorf("only %d pairs had the same class", same)
	}
}
