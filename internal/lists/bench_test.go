// SPDX-License-Identifier: Apache-2.0

package lists

import (
	"bytes"
	"fmt"
	"os"
	"runtime/debug"
	"strings"
	"testing"

	"sotto/forwarder/rules"
)

// million returns a million names of usual length.
func million() []string {
	names := make([]string, 1_000_000)
	for i := range names {
		names[i] = fmt.Sprintf("ads%d.tracker%d.example", i, i%977)
	}
	return names
}

// peak runs f and returns by how many MiB the process was larger at most than before.
func peak(tb testing.TB, f func()) float64 {
	tb.Helper()
	debug.FreeOSMemory()
	before := resident(tb, "VmRSS:")
	if err := os.WriteFile("/proc/self/clear_refs", []byte("5"), 0); err != nil { // resets VmHWM
		tb.Skip(err)
	}
	f()
	return resident(tb, "VmHWM:") - before
}

func resident(tb testing.TB, key string) (mib float64) {
	tb.Helper()
	text, err := os.ReadFile("/proc/self/status")
	if err != nil {
		tb.Fatal(err)
	}
	_, rest, _ := bytes.Cut(text, []byte(key))
	if _, err := fmt.Sscan(string(rest), &mib); err != nil {
		tb.Fatal(err)
	}
	return mib / 1024
}

// BenchmarkFetch receives, checks and stores a million names over TLS.
func BenchmarkFetch(b *testing.B) {
	s := newSite(b)
	s.fetcher.limit = 0
	f := text(strings.Join(million(), "\n"))
	s.serve.Store(&f)
	for b.Loop() {
		b.ReportMetric(peak(b, func() {
			if _, err := s.fetcher.Fetch(b.Context(), s.url, Info{}); err != nil {
				b.Fatal(err)
			}
		}), "peak-MiB")
	}
}

// BenchmarkApply reads a million names from the store and compiles them, as a reload does.
func BenchmarkApply(b *testing.B) {
	s := Store{b.TempDir()}
	put(b, s, million()...)
	for b.Loop() {
		b.ReportMetric(peak(b, func() {
			names, _, err := s.Names(testURL)
			if err != nil {
				b.Fatal(err)
			}
			if _, err := rules.Compile([]rules.Rule{{Names: names}}); err != nil {
				b.Fatal(err)
			}
		}), "peak-MiB")
	}
}
