// SPDX-License-Identifier: Apache-2.0

package kernels

import (
	"os"
	"reflect"
	"strings"
	"testing"
)

// TestREADME checks that the table in README.md is that of docs/kernels.json.
func TestREADME(t *testing.T) {
	r, err := Read("../../docs/kernels.json")
	if err != nil {
		t.Fatal(err)
	}
	if len(r.Kernels) == 0 {
		t.Fatal("docs/kernels.json has no kernels")
	}
	text, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	want, err := r.InREADME(string(text))
	if err != nil {
		t.Fatal(err)
	}
	if want != string(text) {
		t.Error("the table of kernels in README.md is not that of docs/kernels.json: go run ./internal/kernels/update -readme README.md")
	}
}

// console is what a guest writes, with the kernel's own messages between the results.
const console = "[    0.52] APIC calibration\r\n" +
	"@@ kernel 5.10.0-46-cloud-amd64\r\n" +
	"@@ feature btf no\r\n" +
	"@@ ok demo 12 s\r\n" +
	"@@ feature guard clsact\r\n" +
	"@@ ok root-cgroup 120 s, 10 hooks on the root cgroup\r\n" +
	"@@ FAILED intercept, 1 passed, 1 failed, 1 skipped\r\n" +
	"   intercept_test.go:1: wrong\r\n" +
	"@@ fail intercept TestLeak/raw\r\n" +
	"@@ skip intercept TestSocketHeld skipped: this kernel has no MPTCP\r\n" +
	"@@ passed intercept 1\r\n"

// TestParseLog reads the console of a guest that was stopped during its last step.
func TestParseLog(t *testing.T) {
	p, release, features, err := ParseLog(strings.NewReader(console))
	if err != nil {
		t.Fatal(err)
	}
	want := Part{
		Steps: []Step{
			{Name: "demo", OK: true, Seconds: 12},
			{Name: "root-cgroup", OK: true, Seconds: 120, Note: "10 hooks on the root cgroup"},
			{Name: "intercept", Note: "1 passed, 1 failed, 1 skipped"},
		},
		Tests: []Test{{Package: "intercept", Passed: 1, Failed: []string{"TestLeak/raw"},
			Skipped: []Skipped{{Test: "TestSocketHeld", Reason: "this kernel has no MPTCP"}}}},
	}
	if !reflect.DeepEqual(p, want) {
		t.Errorf("%+v, want %+v", p, want)
	}
	if release != "5.10.0-46-cloud-amd64" || !reflect.DeepEqual(features, map[string]string{"btf": "no", "guard": "clsact"}) {
		t.Errorf("release %q, features %v", release, features)
	}
	if p, _, _, _ := ParseLog(strings.NewReader(console + "@@ end\r\n")); !p.Completed {
		t.Error("not completed although it printed the end")
	}
	if _, _, _, err := ParseLog(strings.NewReader("@@ passed intercept many\n")); err == nil {
		t.Error("no error for a line without a number")
	}
}

// TestAdd checks that new results replace old ones of the same parts, and that the table says what
// failed or was not completed.
func TestAdd(t *testing.T) {
	part := func(name string, passed int) Part {
		return Part{Name: name, Completed: true, Tests: []Test{{Package: name, Passed: passed}}}
	}
	kernel := func(suite, release string, parts ...Part) Kernel {
		return Kernel{Suite: suite, Arch: "amd64", Release: release, Features: map[string]string{}, Parts: parts}
	}
	var r Results
	order := []string{"host", "run"}
	r.Add(kernel("bookworm", "6.1.0-4", part("run", 1)), order)
	r.Add(kernel("bullseye", "5.10.0-46", part("run", 1)), order)
	r.Add(kernel("bookworm", "6.1.0-4", part("host", 10)), order)
	r.Add(kernel("bullseye", "5.10.0-47", part("host", 7)), order)
	want := Results{Parts: order, Kernels: []Kernel{
		kernel("bullseye", "5.10.0-47", part("host", 7)), // of another release: not the old parts
		kernel("bookworm", "6.1.0-4", part("host", 10), part("run", 1)),
	}}
	if !reflect.DeepEqual(r, want) {
		t.Errorf("%+v, want %+v", r, want)
	}
	if passed, failed, skipped := r.Kernels[1].Counts(); passed != 11 || failed != 0 || skipped != 0 {
		t.Errorf("%d passed, %d failed, %d skipped", passed, failed, skipped)
	}
	p, _, _, err := ParseLog(strings.NewReader(console))
	if err != nil {
		t.Fatal(err)
	}
	p.Name = "run"
	r.Add(kernel("bookworm", "6.1.0-4", p), order)
	table := r.Table()
	for _, text := range []string{"| no | 7 | 0 | 0; 1 of 2 parts not run |", "| yes | 11 | 1 | 1; intercept; not completed: run |", "Skipped: this kernel has no MPTCP (6.1)."} {
		if !strings.Contains(table, text) {
			t.Errorf("no %q in\n%s", text, table)
		}
	}
}

func TestParseConfig(t *testing.T) {
	got := ParseConfig("CONFIG_MPTCP=y\n# CONFIG_SMC is not set\nCONFIG_VETH=m\n")
	if got["MPTCP"] != "y" || got["VETH"] != "m" || got["SMC"] != "n" || len(got) != len(options) {
		t.Error(got)
	}
}

func TestInREADME(t *testing.T) {
	if _, err := (Results{}).InREADME("no table\n"); err == nil {
		t.Error("no error for a text without a place for the table")
	}
	got, err := (Results{}).InREADME("a\n" + tableStart + "old\n" + tableEnd + "b\n")
	if err != nil || !strings.HasPrefix(got, "a\n"+tableStart+"| Linux |") || !strings.HasSuffix(got, tableEnd+"b\n") {
		t.Errorf("%q, %v", got, err)
	}
}
