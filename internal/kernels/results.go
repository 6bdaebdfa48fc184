// SPDX-License-Identifier: Apache-2.0

package kernels

import (
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strings"
)

// Results is the content of docs/kernels.json.
type Results struct {
	Parts   []string `json:"parts"` // names of all parts, in their order
	Kernels []Kernel `json:"kernels"`
}

// Kernel is a kernel that was tested.
type Kernel struct {
	Suite    string            `json:"suite"`    // of Debian
	Arch     string            `json:"arch"`     // amd64 or arm64
	Release  string            `json:"release"`  // uname -r
	Config   map[string]string `json:"config"`   // options of its build that Sotto depends on; "n" if not set
	Features map[string]string `json:"features"` // what Sotto found at run time
	Parts    []Part            `json:"parts"`    // in the order of scripts/vm-test.sh
	Excluded []Excluded        `json:"excluded,omitempty"`
}

// Excluded are tests that the script never runs in a guest.
type Excluded struct {
	Tests  string `json:"tests"` // regular expression, as for -test.skip
	Reason string `json:"reason"`
}

// Part is what one guest ran: one boot.
type Part struct {
	Name      string `json:"name"`
	Date      string `json:"date"`     // YYYY-MM-DD
	Commit    string `json:"commit"`   // of Sotto
	Emulator  string `json:"emulator"` // version and accelerator
	Completed bool   `json:"completed"`
	Steps     []Step `json:"steps"`
	Tests     []Test `json:"tests,omitempty"`
}

// Step is one step of the guest. A package of tests is one too.
type Step struct {
	Name    string `json:"name"`
	OK      bool   `json:"ok"`
	Seconds int    `json:"seconds,omitempty"` // not known if it failed
	Note    string `json:"note,omitempty"`
}

// Test has the results of one package. Passed counts tests, not subtests; the other two count both.
type Test struct {
	Package string    `json:"package"`
	Passed  int       `json:"passed"`
	Failed  []string  `json:"failed,omitempty"`
	Skipped []Skipped `json:"skipped,omitempty"`
}

// Skipped is a test or subtest that skipped itself.
type Skipped struct {
	Test   string `json:"test"`
	Reason string `json:"reason"`
}

// Read reads a file of results. A file that does not exist has none.
func Read(path string) (Results, error) {
	var r Results
	text, err := os.ReadFile(path)
	if os.IsNotExist(err) {
		return r, nil
	}
	if err != nil {
		return r, err
	}
	if err := json.Unmarshal(text, &r); err != nil {
		return r, fmt.Errorf("read %s: %w", path, err)
	}
	return r, nil
}

// Write writes the results to a file.
func (r Results) Write(path string) error {
	text, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(path, append(text, '\n'), 0o644)
}

// Add adds the results of a kernel; order has the names of all parts. They replace those of the same suite and architecture; parts
// that k does not have are kept if they are of the same release.
func (r *Results) Add(k Kernel, order []string) {
	r.Parts = order
	i := slices.IndexFunc(r.Kernels, func(o Kernel) bool { return o.Suite == k.Suite && o.Arch == k.Arch })
	if i < 0 {
		r.Kernels = append(r.Kernels, k)
	} else {
		if old := r.Kernels[i]; old.Release == k.Release {
			k.keep(old)
		}
		r.Kernels[i] = k
	}
	for _, k := range r.Kernels {
		slices.SortStableFunc(k.Parts, func(a, b Part) int { return slices.Index(order, a.Name) - slices.Index(order, b.Name) })
	}
	slices.SortStableFunc(r.Kernels, func(a, b Kernel) int {
		if a.Arch != b.Arch {
			return strings.Compare(a.Arch, b.Arch)
		}
		return compareReleases(a.Release, b.Release)
	})
}

// keep adds the parts and features of old that k does not have.
func (k *Kernel) keep(old Kernel) {
	for _, p := range old.Parts {
		if !slices.ContainsFunc(k.Parts, func(n Part) bool { return n.Name == p.Name }) {
			k.Parts = append(k.Parts, p)
		}
	}
	for name, value := range old.Features {
		if _, ok := k.Features[name]; !ok {
			k.Features[name] = value
		}
	}
}

// compareReleases compares two releases by their series.
func compareReleases(a, b string) int {
	var major, minor [2]int
	for i, release := range []string{a, b} {
		// Without numbers, both stay 0.
		_, _ = fmt.Sscanf(release, "%d.%d", &major[i], &minor[i])
	}
	return (major[0]-major[1])*1000 + minor[0] - minor[1]
}

// Counts returns how many tests passed, failed and skipped themselves.
func (k Kernel) Counts() (passed, failed, skipped int) {
	for _, p := range k.Parts {
		for _, t := range p.Tests {
			passed += t.Passed
			failed += len(t.Failed)
			skipped += len(t.Skipped)
		}
	}
	return passed, failed, skipped
}

// Sealed reports whether the guest sealed the root cgroup, which the step root-cgroup does.
func (k Kernel) Sealed() bool {
	return slices.ContainsFunc(k.Parts, func(p Part) bool {
		return slices.ContainsFunc(p.Steps, func(s Step) bool { return s.Name == "root-cgroup" && s.OK })
	})
}

// Faults returns what failed: steps, and parts that were not completed or, of all, not run.
func (k Kernel) Faults(all []string) (faults []string) {
	missing := 0
	for _, name := range all {
		if !slices.ContainsFunc(k.Parts, func(p Part) bool { return p.Name == name }) {
			missing++
		}
	}
	if missing > 0 {
		faults = append(faults, fmt.Sprintf("%d of %d parts not run", missing, len(all)))
	}
	for _, p := range k.Parts {
		for _, s := range p.Steps {
			if !s.OK {
				faults = append(faults, s.Name)
			}
		}
		if !p.Completed {
			faults = append(faults, "not completed: "+p.Name)
		}
	}
	return faults
}
