// SPDX-License-Identifier: Apache-2.0

package kernels

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// The table in README.md is between these lines.
const (
	tableStart = "<!-- kernels: generated from docs/kernels.json by scripts/vm-test.sh -->\n"
	tableEnd   = "<!-- kernels end -->\n"
)

// Table returns the results as a Markdown table, followed by why tests were skipped.
func (r Results) Table() string {
	var b strings.Builder
	b.WriteString("| Linux | architecture | Debian | tcx | BTF | MPTCP | root cgroup sealed | tests passed | skipped | failed |\n|---|---|---|---|---|---|---|---|---|---|\n")
	for _, k := range r.Kernels {
		passed, failed, skipped := k.Counts()
		result := fmt.Sprint(failed)
		if faults := k.Faults(r.Parts); len(faults) > 0 {
			result += "; " + strings.Join(faults, "; ")
		}
		fmt.Fprintf(&b, "| %s | %s | %s | %s | %s | %s | %s | %d | %d | %s |\n", strings.SplitN(k.Release, "-", 2)[0], k.Arch, k.Suite,
			k.feature("tcx"), k.feature("btf"), k.feature("mptcp"), map[bool]string{true: "yes", false: "no"}[k.Sealed()], passed, skipped, result)
	}
	if reasons := r.reasons(); len(reasons) > 0 {
		b.WriteString("\nSkipped: " + strings.Join(reasons, "; ") + ".\n")
	}
	return b.String()
}

// feature returns the value of a feature, or "?" if the guest did not find out.
func (k Kernel) feature(name string) string {
	if v, ok := k.Features[name]; ok {
		return v
	}
	return "?"
}

// reasons returns why tests were skipped, each with the kernels where that happened.
func (r Results) reasons() (out []string) {
	where := map[string][]string{}
	for _, k := range r.Kernels {
		series := strings.Join(strings.SplitN(k.Release, ".", 3)[:2], ".")
		if k.Arch != "amd64" {
			series += " " + k.Arch
		}
		for _, p := range k.Parts {
			for _, t := range p.Tests {
				for _, s := range t.Skipped {
					if !slices.Contains(where[s.Reason], series) {
						where[s.Reason] = append(where[s.Reason], series)
					}
				}
			}
		}
	}
	for reason, series := range where {
		out = append(out, fmt.Sprintf("%s (%s)", reason, strings.Join(series, ", ")))
	}
	slices.Sort(out)
	return out
}

// InREADME returns the text of README.md with the table of these results.
func (r Results) InREADME(text string) (string, error) {
	before, rest, found := strings.Cut(text, tableStart)
	_, after, ended := strings.Cut(rest, tableEnd)
	if !found || !ended {
		return "", errors.New("README.md has no place for the table of kernels: add the lines " +
			strings.TrimSpace(tableStart) + " and " + strings.TrimSpace(tableEnd))
	}
	return before + tableStart + r.Table() + tableEnd + after, nil
}
