// SPDX-License-Identifier: Apache-2.0

package top

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	tea "charm.land/bubbletea/v2"
	"github.com/charmbracelet/x/ansi"

	"sotto/internal/observe"
	"sotto/internal/status"
)

var update = flag.Bool("update", false, "write the golden files")

// start is the time of the first sample.
var start = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

// screen drives a Model as bubbletea does.
type screen struct {
	t *testing.T
	*Model
	status status.Status
	now    time.Time
}

// newScreen returns a screen of a Sotto that has answered queries for an hour.
func newScreen(t *testing.T, width, height int) *screen {
	s := &screen{t: t, now: start, status: status.Status{
		Version: "v1.2.3", Started: start.Add(-time.Hour), PID: 42, Ready: true,
		Groups: []status.Group{
			{Name: "default", Servers: []status.Server{
				{Server: "192.0.2.1:853#dns.example", State: "up", Protocol: "TLS 1.3", UsualMillis: 12.34, P95Millis: 56.7, Connections: 2, InFlight: 3},
				{Server: "192.0.2.2:853#dns.example", State: "down", LastError: "dial: connection refused"},
			}},
			{Name: "corp", Servers: []status.Server{{Server: "[2001:db8::1]:853#a-long-name-of-a-server.corp.example", State: "silent", Protocol: "TLS 1.2", UsualMillis: 0.4}}},
		},
		Workloads: []observe.WorkloadCounts{
			{Name: "/system.slice/web.service", Queries: 123456, Failed: 10, Cached: 100000, Seconds: 100},
			{Name: "/user.slice/user-1000.slice/user@1000.service/app.slice/app-org.example.Browser-4711.scope", Queries: 900},
			{Name: "/system.slice/\x1b[31mred\u202e.service", Queries: 5},
			{Name: "", Queries: 1},
		},
	}}
	s.Model = NewModel(&s.status, "")
	s.size(width, height)
	s.sample(nil)
	return s
}

func (s *screen) size(width, height int) { s.Update(tea.WindowSizeMsg{Width: width, Height: height}) }

// sample sends the current status and what the trace counted.
func (s *screen) sample(names map[key]counts) {
	copied := s.status
	copied.Workloads = append([]observe.WorkloadCounts(nil), s.status.Workloads...)
	copied.Groups = nil
	for _, g := range s.status.Groups {
		g.Servers = append([]status.Server(nil), g.Servers...)
		copied.Groups = append(copied.Groups, g)
	}
	s.Update(Sample{At: s.now, Status: &copied, names: names})
}

// run lets n seconds pass: web sends 100 queries per second, the browser between 0 and 8.
func (s *screen) run(n int) {
	for i := range n {
		s.now = s.now.Add(time.Second)
		web, browser := &s.status.Workloads[0], &s.status.Workloads[1]
		web.Queries, web.Failed, web.Cached, web.Seconds = web.Queries+100, web.Failed+2, web.Cached+50, web.Seconds+0.5
		burst := uint64(i % 9)
		browser.Queries, browser.Seconds = browser.Queries+burst, browser.Seconds+float64(burst)*1.25
		s.status.Groups[0].Servers[0].Queries += 50
		s.status.Groups[0].Servers[1].Queries += 2
		s.status.Groups[0].Servers[1].Failed += 2
		s.sample(map[key]counts{
			{web.Name, "www.example.com."}:                                     {queries: 60, cached: 50, seconds: 0.01},
			{web.Name, "down.example.net."}:                                    {queries: 2, failed: 2, seconds: 7.6},
			{web.Name, strings.Repeat("very-long-label.", 8) + "example.org."}: {queries: 38, seconds: 0.4},
			{browser.Name, "www.example.com."}:                                 {queries: burst, seconds: float64(burst) * 1.25},
		})
	}
}

// press sends keys, such as "enter" or "s".
func (s *screen) press(keys ...string) (quit bool) {
	s.t.Helper()
	special := map[string]rune{"enter": tea.KeyEnter, "esc": tea.KeyEscape, "tab": tea.KeyTab, "down": tea.KeyDown, "up": tea.KeyUp,
		"end": tea.KeyEnd, "home": tea.KeyHome, "pgdown": tea.KeyPgDown, "backspace": tea.KeyBackspace}
	for _, k := range keys {
		msg := tea.KeyPressMsg{Text: k}
		if code, ok := special[k]; ok {
			msg = tea.KeyPressMsg{Code: code}
		} else if rest, ok := strings.CutPrefix(k, "ctrl+"); ok {
			msg = tea.KeyPressMsg{Code: rune(rest[0]), Mod: tea.ModCtrl}
		} else {
			msg.Code = rune(k[0])
		}
		if msg.String() != k {
			s.t.Fatalf("the key %q is called %q", k, msg.String())
		}
		if _, cmd := s.Update(msg); cmd != nil {
			_, quit = cmd().(tea.QuitMsg)
		}
	}
	return quit
}

// text returns the screen without styles, and checks that it fits.
func (s *screen) text() string {
	s.t.Helper()
	lines := strings.Split(s.View().Content, "\n")
	if len(lines) > s.height {
		s.t.Errorf("%d lines on a screen of %d", len(lines), s.height)
	}
	for i, line := range lines {
		lines[i] = strings.TrimRight(ansi.Strip(line), " ")
		if w := ansi.StringWidth(line); w > s.width {
			s.t.Errorf("a line has %d columns on a screen of %d: %q", w, s.width, lines[i])
		}
	}
	return strings.Join(lines, "\n") + "\n"
}

// golden compares the screen with a file.
func (s *screen) golden(name string) {
	s.t.Helper()
	path := filepath.Join("testdata", fmt.Sprintf("%s-%dx%d.golden", name, s.width, s.height))
	got := s.text()
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			s.t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		s.t.Fatal(err)
	}
	if got != string(want) {
		s.t.Errorf("%s: got:\n%s\nwant:\n%s", path, got, want)
	}
}

// contains checks that the screen contains each text.
func (s *screen) contains(texts ...string) {
	s.t.Helper()
	got := s.text()
	for _, text := range texts {
		if !strings.Contains(got, text) {
			s.t.Errorf("the screen does not contain %q:\n%s", text, got)
		}
	}
}

// lacks checks that the screen contains none of the texts.
func (s *screen) lacks(texts ...string) {
	s.t.Helper()
	got := s.text()
	for _, text := range texts {
		if strings.Contains(got, text) {
			s.t.Errorf("the screen contains %q:\n%s", text, got)
		}
	}
}
