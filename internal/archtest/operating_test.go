// SPDX-License-Identifier: Apache-2.0

package archtest

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

var quoted = regexp.MustCompile("`([^`]+)`")

// operating returns a section of docs/OPERATING.md.
func operating(t *testing.T, section string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(root(t), "docs/OPERATING.md"))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, found := strings.Cut(string(text), "\n## "+section+"\n")
	if !found {
		t.Fatalf("docs/OPERATING.md has no section %q", section)
	}
	rest, _, _ = strings.Cut(rest, "\n## ")
	return rest
}

// code returns the Go code of the module, without tests, in which quotes are not escaped.
func code(t *testing.T) string {
	t.Helper()
	var all strings.Builder
	err := filepath.WalkDir(root(t), func(path string, _ fs.DirEntry, err error) error {
		if err != nil || filepath.Ext(path) != ".go" || strings.HasSuffix(path, "_test.go") {
			return err
		}
		text, err := os.ReadFile(path)
		all.Write(text)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return strings.ReplaceAll(all.String(), `\"`, `"`)
}

// TestSymptoms: every message in the table of symptoms is in the code.
func TestSymptoms(t *testing.T) {
	all, rows := code(t), 0
	for line := range strings.Lines(operating(t, "Symptoms")) {
		cells := strings.Split(line, " | ")
		if len(cells) < 3 || strings.HasPrefix(cells[0], "| symptom") {
			continue
		}
		rows++
		for _, message := range quoted.FindAllStringSubmatch(cells[0], -1) {
			for part := range strings.SplitSeq(message[1], "…") {
				if part = strings.TrimSpace(part); !strings.Contains(all, part) {
					t.Errorf("docs/OPERATING.md names the message %q: %q is not in the code", message[1], part)
				}
			}
		}
	}
	if rows < 15 {
		t.Errorf("%d symptoms, want more", rows)
	}
}

// TestCountersDocumented: docs/OPERATING.md has every counter of the kernel.
func TestCountersDocumented(t *testing.T) {
	header, err := os.ReadFile(filepath.Join(root(t), "bpf/counters.h"))
	if err != nil {
		t.Fatal(err)
	}
	documented := map[string]bool{}
	for _, name := range quoted.FindAllStringSubmatch(operating(t, "Reading the status"), -1) {
		documented[name[1]] = true
	}
	counters := regexp.MustCompile(`(?m)^\tCOUNT_(\w+),`).FindAllSubmatch(header, -1)
	for _, c := range counters {
		if name := strings.ToLower(string(c[1])); !documented[name] {
			t.Errorf("docs/OPERATING.md does not explain the counter %s", name)
		}
	}
	if len(counters) < 30 {
		t.Errorf("found %d counters, fewer than there are", len(counters))
	}
}
