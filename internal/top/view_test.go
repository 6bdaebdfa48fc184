// SPDX-License-Identifier: Apache-2.0

package top

import (
	"errors"
	"strings"
	"testing"
	"time"
)

// sizes are those of the golden files.
var sizes = [][2]int{{80, 24}, {140, 40}}

// TestScreens compares all screens at both sizes.
func TestScreens(t *testing.T) {
	for _, size := range sizes {
		s := newScreen(t, size[0], size[1])
		s.golden("start")
		s.press("2")
		s.golden("no-names")
		s.press("1")
		s.run(20)
		s.golden("workloads")
		s.press("2")
		s.golden("names")
		s.press("3")
		s.golden("upstreams")
		s.press("down")
		s.golden("upstream-error")
		s.press("1", "down", "enter")
		s.golden("drill-down")
		s.press("?")
		s.golden("help")
	}
}

// TestResize: every size works, and the layout follows it.
func TestResize(t *testing.T) {
	s := newScreen(t, 80, 24)
	s.run(3)
	for width := range 160 {
		for _, height := range []int{0, 1, 7, 8, 9, 24, 60} {
			s.size(width, height)
			if width == 0 || height == 0 {
				continue // there is nothing to see
			}
			for _, keys := range []string{"1", "2", "3", "?"} {
				s.press(keys)
				s.text()
			}
			s.press("?")
		}
	}
	s.size(30, 24)
	s.contains("too small: want 40×8")
	s.size(140, 40)
	s.press("1")
	s.contains("queries", "last 2")
	s.size(80, 24)
	s.lacks("queries last")
}

// TestConnectionLost: the screen says that it is not connected, and continues with the next
// process without counting its first status as a burst.
func TestConnectionLost(t *testing.T) {
	s := newScreen(t, 80, 24)
	s.run(10)
	for range 5 {
		s.now = s.now.Add(time.Second)
		s.Update(Sample{At: s.now, Err: errors.New("no Sotto listens on /run/x\x1b[2J"), traceErr: errTraceEnded})
	}
	s.contains("not connected for 4s, trying again: no Sotto listens on /run/x\uFFFD[2J")
	s.press("2")
	s.contains("not connected", "very-long")

	s.status.PID, s.status.Started = 43, s.now
	s.status.Workloads = s.status.Workloads[:2]
	s.status.Workloads[0].Queries = 2_000_000 // more than before: only the PID is different
	s.now = s.now.Add(time.Second)
	s.sample(nil)
	s.press("1")
	s.contains("PID 43, up 1s", "another process answers now")
	s.lacks("not connected", "red")
	s.run(1)
	if r := s.page().rows[0]; r.rate > 101 || r.plot[history-1] != 100 {
		t.Errorf("after the replacement the rate is %v, the last sample %v", r.rate, r.plot[history-1])
	}
	s.run(10)
	s.lacks("another process")
	s.press("2")
	s.Update(Sample{At: s.now.Add(time.Second), Status: &s.status, traceErr: errors.New("refused")})
	s.contains("no trace, names are not counted: refused")
}

// TestStopping: a process that was stopped is not shown as starting.
func TestStopping(t *testing.T) {
	s := newScreen(t, 80, 24)
	s.status.Ready, s.status.Stopping = false, true
	s.run(1)
	s.contains("Sotto v1.2.3, stopping, PID 42")
}

// TestControlCharacters: names cannot control the terminal.
func TestControlCharacters(t *testing.T) {
	s := newScreen(t, 140, 40)
	s.contains("/system.slice/\uFFFD[31mred\uFFFD.service")
	if strings.Contains(s.View().Content, "\x1b[31mred") {
		t.Error("a workload's name reaches the terminal as it is")
	}
}

// TestLost: queries that the trace lost are reported.
func TestLost(t *testing.T) {
	s := newScreen(t, 80, 24)
	s.press("2")
	s.run(1)
	s.lacks("not counted")
	for range 60 {
		s.now = s.now.Add(time.Second)
		s.Update(Sample{At: s.now, Status: &s.status, lost: 300, names: map[key]counts{{"/a", "a."}: {queries: 100}}})
	}
	s.contains("75 % of the queries are not counted here")
}

func TestFormat(t *testing.T) {
	for _, tc := range []struct{ got, want string }{
		{rate(0.01), "0"}, {rate(0.06), "0.1"}, {rate(9.94), "9.9"}, {rate(9.96), "10"}, {rate(9999), "9999"}, {rate(10_400), "10k"}, {rate(2_345_678), "2.3M"},
		{span(0), "0 µs"}, {span(999e-6), "999 µs"}, {span(0.001), "1.0 ms"}, {span(0.0999), "99.9 ms"}, {span(0.1), "100 ms"}, {span(0.9999), "1.0 s"}, {span(12.34), "12.3 s"},
		{fit("abcdef", 4), "abc…"}, {fit("ab", 4), "ab  "}, {fitEnd("abcdef", 4), "…def"}, {fitEnd("日本語", 4), "…語 "}, {fit("abc", 0), ""}, {right("abc", 5), "  abc"},
		{plot([]float32{0, 1, 4, 8}, 3), "▁▄▇"}, {plot([]float32{0, 0}, 4), "    "},
	} {
		if tc.got != tc.want {
			t.Errorf("got %q, want %q", tc.got, tc.want)
		}
	}
}
