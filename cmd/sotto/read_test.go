// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"sotto/internal/e2e"
	"sotto/internal/netlab/labtest"
)

// TestNothingComes: a start neither waits forever for a file that a setting names nor reads
// it without a limit, and the error names the setting and the file.
func TestNothingComes(t *testing.T) {
	dir := t.TempDir()
	config := filepath.Join(dir, "names.toml")
	for name, tc := range map[string]struct{ args, want string }{
		"configuration, a pipe": {"serve --check --config %s", "read the configuration (--config): read %s: it is a pipe that no process writes to"},
		"ca-file, a pipe":       {"serve --check --config /dev/null --ca-file %s", "ca-file: read certificate authorities: read %s: it is a pipe"},
		"exec, a pipe":          {"exec --ca-file %s -- true", "ca-file: read certificate authorities: read %s: it is a pipe"},
		"reload, a pipe":        {"reload --config %s", "read %s: it is a pipe"},
		"control, a pipe":       {"reload --control %s", "no Sotto listens on %s"},
		"names-file, a pipe":    {"serve --check --config " + config, config + ":3:14: names-file: read a list of names: read %s: it is a pipe"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel() // each waits for a writer
			path := labtest.FIFO(t)
			if strings.HasPrefix(name, "names-file") {
				e2e.WriteFile(t, config, fmt.Sprintf("[[rule]]\nuse = \"refuse\"\nnames-file = %q\n", path))
			}
			labtest.MustReturn(t, tc.args, func() {
				args := strings.Fields(strings.ReplaceAll(tc.args, "%s", path))
				if stdout, stderr, status := call(t, args...); status != exitFailure || !strings.Contains(stderr, strings.ReplaceAll(tc.want, "%s", path)) {
					t.Errorf("status %d, %s%s\nwant %q", status, stdout, stderr, tc.want)
				}
			})
		})
	}
	for path, want := range map[string]string{"/dev/zero": "longer than 16 MiB", dir: "is a directory"} {
		labtest.MustReturn(t, path, func() {
			if _, stderr, status := call(t, "serve", "--check", "--config", path); status != exitFailure || !strings.Contains(stderr, want) || !strings.Contains(stderr, path) {
				t.Errorf("%s: status %d, %s: want %q", path, status, stderr, want)
			}
		})
	}
	if _, stderr, status := call(t, "serve", "--check", "--config", "/dev/null"); status != 0 {
		t.Errorf("/dev/null: status %d, %s", status, stderr)
	}
}

// TestConfigFromPipe: the configuration can be a pipe, as from a shell.
func TestConfigFromPipe(t *testing.T) {
	bash := labtest.NeedTool(t, "bash")
	config := filepath.Join(t.TempDir(), "bad.toml")
	// The error is on the third line.
	e2e.WriteFile(t, config, noUpstream+"cache-mib = 1\nno-such-setting = 1\n")
	for _, script := range []string{
		`"$0" serve --check --config <(cat "$1")`,
		`"$0" serve --check --config <(sleep 0.3; cat "$1")`,
		`cat "$1" | "$0" serve --check --config /dev/stdin`,
		`"$0" serve --check --config /dev/stdin < "$1"`,
		`"$0" serve --check --config /dev/fd/7 7< "$1"`,
	} {
		cmd := exec.CommandContext(t.Context(), bash, "-c", script, self().Path, config)
		cmd.Env = append(append(os.Environ(), e2e.RaceEnv), self().Env...)
		out, err := cmd.CombinedOutput()
		if cmd.ProcessState.ExitCode() != exitFailure || !strings.Contains(string(out), `:3:1: unknown setting "no-such-setting"`) {
			t.Errorf("%s: %v\n%s", script, err, out)
		}
	}
}

// TestReloadFromPipe: a reload fails if its pipe was read before, instead of using an empty
// configuration; data from a new writer is read.
func TestReloadFromPipe(t *testing.T) {
	s, _ := startServing(t, "[[rule]]\nname = \"old.example\"\nuse = \"refuse\"\n")
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if err := errors.Join(w.Close(), os.Remove(s.config), os.Symlink(fmt.Sprintf("/dev/fd/%d", r.Fd()), s.config)); err != nil {
		t.Fatal(err)
	}
	if _, stderr, status := call(t, "reload", "--control", s.control); status != exitFailure || !strings.Contains(stderr, "it is an empty pipe") {
		t.Errorf("status %d, %s", status, stderr)
	}
	if got, err := s.ask("udp", "old.example"); err != nil || got != "REFUSED" {
		t.Errorf("the old rule is not in force: %s, %v", got, err)
	}
	if err := errors.Join(os.Remove(s.config), unix.Mkfifo(s.config, 0o600)); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	wrote := make(chan error, 1)
	go func() {
		text := fmt.Sprintf("control = %q\n%s[[rule]]\nname = \"new.example\"\nuse = \"refuse\"\n", s.control, noUpstream)
		cmd := exec.CommandContext(ctx, "sh", "-c", `printf %s "$1" > "$0"`, s.config, text)
		wrote <- cmd.Run()
	}()
	if _, stderr, status := call(t, "reload", "--control", s.control); status != 0 {
		t.Errorf("status %d, %s", status, stderr)
	}
	if t.Failed() {
		cancel() // the writer may wait for a reader
	}
	if err := <-wrote; err != nil {
		t.Error(err)
	}
	if got, err := s.ask("udp", "new.example"); err != nil || got != "REFUSED" {
		t.Errorf("the new rule is not in force: %s, %v", got, err)
	}
}
