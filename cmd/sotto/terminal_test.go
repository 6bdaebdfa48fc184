// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"sotto/internal/e2e"
	"sotto/internal/netlab/labtest"
)

// tmuxTerminal is a terminal of tmux in which a command of sotto runs.
type tmuxTerminal struct {
	t    *testing.T
	dir  string
	tmux string // program
}

// terminalScript runs sotto ("$@") and records the settings of the terminal before and after.
// The program tmux that sotto would find leaves a file.
const terminalScript = `
printf '#!/bin/sh\n: >"%s/called"\n' "$dir" >"$dir/bin/tmux" && chmod 755 "$dir/bin/tmux" || exit
stty -g >"$dir/before"
echo before sotto
PATH=$dir/bin:$PATH sh -c 'echo $$ >"$dir/pid"; exec "$@"' sh "$@"
echo "status $?"
stty -g >"$dir/after"
echo after sotto
exec sleep 1000
`

// openTerminal starts sotto in a terminal with a number of columns and rows. vars are added to its
// environment.
func openTerminal(t *testing.T, columns, rows int, vars []string, args ...string) *tmuxTerminal {
	t.Helper()
	term := &tmuxTerminal{t: t, dir: t.TempDir(), tmux: labtest.NeedTool(t, "tmux")}
	if err := os.Mkdir(filepath.Join(term.dir, "bin"), 0o755); err != nil {
		t.Fatal(err)
	}
	script := filepath.Join(term.dir, "script")
	e2e.WriteFile(t, script, terminalScript)
	line := append([]string{"env", "dir=" + term.dir, e2e.RaceEnv}, self().Env...)
	line = append(append(line, vars...), "sh", script, self().Path)
	t.Cleanup(func() { term.run("kill-server") })
	term.run(append([]string{"-f", "/dev/null", "new-session", "-d", "-x", fmt.Sprint(columns), "-y", fmt.Sprint(rows), "--"}, append(line, args...)...)...)
	return term
}

// run runs a command of tmux and returns its output.
func (term *tmuxTerminal) run(args ...string) string {
	term.t.Helper()
	cmd := exec.Command(term.tmux, append([]string{"-u", "-S", filepath.Join(term.dir, "s")}, args...)...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		term.t.Fatalf("tmux %v: %v\n%s", args, err, out)
	}
	return string(out)
}

// keys types keys, in the notation of tmux.
func (term *tmuxTerminal) keys(keys ...string) {
	term.t.Helper()
	term.run(append([]string{"send-keys"}, keys...)...)
}

// screen returns the text on the screen.
func (term *tmuxTerminal) screen() string {
	term.t.Helper()
	return term.run("capture-pane", "-p")
}

// shows waits until the screen contains all texts.
func (term *tmuxTerminal) shows(texts ...string) {
	term.t.Helper()
	term.waits("the screen to show "+strings.Join(texts, ", "), func(screen string) bool {
		for _, text := range texts {
			if !strings.Contains(screen, text) {
				return false
			}
		}
		return true
	})
}

// waits waits until done accepts the screen. On failure the last screen is logged.
func (term *tmuxTerminal) waits(what string, done func(screen string) bool) {
	term.t.Helper()
	last := ""
	term.t.Cleanup(func() {
		if term.t.Failed() && last != "" {
			term.t.Logf("waited for %s; the screen was:\n%s", what, last)
		}
	})
	e2e.Eventually(term.t, what, func() bool {
		last = term.screen()
		return done(last)
	})
	last = ""
}

// read returns the content of a file that the script wrote.
func (term *tmuxTerminal) read(name string) string {
	term.t.Helper()
	text, err := os.ReadFile(filepath.Join(term.dir, name))
	if err != nil {
		term.t.Fatal(err)
	}
	return strings.TrimSpace(string(text))
}

// restored waits until sotto has exited with a status, and checks that the terminal is as before.
func (term *tmuxTerminal) restored(status int) {
	term.t.Helper()
	term.shows("before sotto", fmt.Sprintf("status %d", status), "after sotto")
	if screen := term.screen(); strings.Contains(screen, "queries/s") {
		term.t.Errorf("the screen of sotto is still there:\n%s", screen)
	}
	if before, after := term.read("before"), term.read("after"); before != after {
		term.t.Errorf("terminal settings: %s, before: %s", after, before)
	}
	modes := term.run("display-message", "-p", "#{alternate_on} #{cursor_flag} #{mouse_any_flag} #{keypad_flag} #{keypad_cursor_flag} #{wrap_flag}")
	if modes != "0 1 0 0 0 1\n" {
		term.t.Errorf("alternate screen, cursor, mouse, keypad, cursor keys, wrap: %s", modes)
	}
	if _, err := os.Stat(filepath.Join(term.dir, "called")); err == nil {
		term.t.Error("sotto has run the program tmux")
	}
}
