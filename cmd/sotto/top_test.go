// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"sotto/internal/dnstest"
	"sotto/internal/e2e"
)

// colour matches a sequence that sets one of the 16 colours.
var colour = regexp.MustCompile(`\x1b\[([0-9;]*;)?[349][0-7]m`)

// startTopped starts a serve that answers all names.
func startTopped(t *testing.T) (s *serving, stop func()) {
	t.Helper()
	ca, err := dnstest.NewCA()
	if err != nil {
		t.Fatal(err)
	}
	caFile := filepath.Join(t.TempDir(), "ca.pem")
	e2e.WriteFile(t, caFile, string(ca.PEM()))
	up := startServer(t, ca, "192.0.2.1")
	return startServing(t, fmt.Sprintf("ca-file = %q\nupstream = [%q]\n", caFile, up.spec))
}

// asked waits until a screen shows a name that is asked all the time: the first queries may come
// before the trace.
func (term *tmuxTerminal) asked(s *serving, name string) {
	term.t.Helper()
	term.waits("the name "+name, func(screen string) bool {
		if got, err := s.ask("udp", name); got != "192.0.2.1" {
			term.t.Fatalf("%s: %q, %v", name, got, err)
		}
		return strings.Contains(screen, name)
	})
}

// TestTop uses all of top in a terminal, with a Sotto that stops and starts again.
func TestTop(t *testing.T) {
	s, stop := startTopped(t)
	term := openTerminal(t, 80, 24, nil, "top", "--control", s.control)
	term.shows("ready, PID ", "1 Workloads", "q quit")
	if on := term.run("display-message", "-p", "#{alternate_on}"); on != "1\n" {
		t.Errorf("alternate screen: %s", on)
	}
	term.keys("2")
	term.asked(s, "www.example.")
	term.asked(s, "a.other.example.")
	if coloured := term.run("capture-pane", "-p", "-e"); !colour.MatchString(coloured) {
		t.Errorf("no colour:\n%q", coloured)
	}
	term.keys("/", "o", "t", "h", "Enter")
	term.waits("the filter", func(screen string) bool { return !strings.Contains(screen, "www.example.") })
	term.shows("filter: oth", "a.other.example.")
	term.keys("Escape")
	term.shows("www.example.")
	term.keys("3")
	term.shows("(default)", "up", "p95")
	term.run("resize-window", "-x", "140", "-y", "40")
	term.shows("TLS 1.3", "protocol")
	term.keys("1", "Enter")
	term.shows("Names of unknown", "www.example.")
	term.keys("?")
	term.shows("names of the selected workload")
	term.keys("x")

	term.keys("C-z")
	alternate := func() string { return term.run("display-message", "-p", "#{alternate_on}") }
	e2e.Eventually(t, "top to be suspended", func() bool { return alternate() == "0\n" })
	e2e.Eventually(t, "top to continue", func() bool {
		term.kill(unix.SIGCONT) // a shell's fg; ignored before top waits for it
		return alternate() == "1\n"
	})
	term.shows("Names of unknown")

	stop()
	term.shows("not connected for ", "no Sotto listens")
	stop = s.start()
	term.shows("another process answers now")
	term.asked(s, "new.example.")
	term.keys("q")
	term.restored(0)
	stop()
}

// TestTopEnds: however top ends, the terminal is as before.
func TestTopEnds(t *testing.T) {
	s, _ := startTopped(t)
	for name, end := range map[string]func(*tmuxTerminal){
		"ctrl-c":  func(term *tmuxTerminal) { term.keys("C-c") },
		"SIGTERM": func(term *tmuxTerminal) { term.kill(unix.SIGTERM) },
		"SIGINT":  func(term *tmuxTerminal) { term.kill(unix.SIGINT) },
	} {
		t.Run(name, func(t *testing.T) {
			term := openTerminal(t, 80, 24, []string{"NO_COLOR=yes"}, "top", "--control", s.control)
			term.keys("2")
			term.asked(s, "www.example.")
			if text := term.run("capture-pane", "-p", "-e"); colour.MatchString(text) {
				t.Errorf("colours with NO_COLOR:\n%q", text)
			}
			end(term)
			term.restored(0)
		})
	}
}

// kill sends a signal to sotto.
func (term *tmuxTerminal) kill(sig unix.Signal) {
	term.t.Helper()
	pid, err := strconv.Atoi(term.read("pid"))
	if err != nil {
		term.t.Fatal(err)
	}
	if err := unix.Kill(pid, sig); err != nil {
		term.t.Fatal(err)
	}
}

// TestTopErrors: without a terminal or a Sotto, top says what to do.
func TestTopErrors(t *testing.T) {
	s, _ := startTopped(t)
	const want = "sotto: top needs a terminal: use 'sotto status --watch'\n"
	if out, errs, code := s.sotto("top"); code != exitFailure || out != "" || errs != want {
		t.Errorf("without a terminal: status %d, %q, %q", code, out, errs)
	}
	term := openTerminal(t, 80, 24, []string{"TERM=dumb"}, "top", "--control", s.control)
	term.shows("top needs a terminal: use 'sotto status --watch'")
	term.restored(exitFailure)
	term = openTerminal(t, 80, 24, nil, "top", "--control", filepath.Join(t.TempDir(), "none.sock"))
	term.shows("no Sotto listens on")
	term.restored(exitFailure)
}
