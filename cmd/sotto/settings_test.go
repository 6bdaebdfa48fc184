// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"sotto/internal/e2e"
)

// TestFlagsOverFile: flags override the file, and their errors do not mention it.
func TestFlagsOverFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "sotto.toml")
	e2e.WriteFile(t, path, "upstream = [\"quad9\"]\nlisten = [\"127.0.0.1:5300\"]\npolicy = \"random\"\ncache-mib = -1\n")
	for _, tc := range []struct {
		args   string
		status int
		want   string
	}{
		{"", exitFailure, path + ":4:13: cache-mib"},
		{"--cache-mib 3", 0, "valid: " + path},
		{"--cache-mib -2", exitUsage, "sotto: cache-mib: it is -2"},
		{"--cache-mib 3 --upstream nobody.example", exitUsage, "sotto: upstream: "},
		{"--cache-mib 3 --policy best", exitUsage, "sotto: policy: "},
		{"--cache-mib 3 --profile lax", exitUsage, "sotto: profile: "},
	} {
		stdout, stderr, status := call(t, append([]string{"serve", "--check", "--config", path}, strings.Fields(tc.args)...)...)
		if status != tc.status || !strings.Contains(stdout+stderr, tc.want) {
			t.Errorf("%s: status %d, %q %q: want %d and %q", tc.args, status, stdout, stderr, tc.status, tc.want)
		}
	}
}

// TestCheckStartsNothing: --check neither listens nor needs root, and logs warnings.
func TestCheckStartsNothing(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "sotto.toml")
	e2e.WriteFile(t, path, fmt.Sprintf("control = %q\n[[rule]]\nuse = \"refuse\"\n[[rule]]\nname = \"late.example\"\nuse = \"nodata\"\n", filepath.Join(dir, "control.sock")))
	stdout, stderr, status := call(t, "serve", "--check", "--config", path, "--listen", "192.0.2.99:53")
	if status != 0 || !strings.Contains(stdout, "2 rules") || !strings.Contains(stderr, path+":4:3: rule: it never matches") {
		t.Errorf("status %d, %q, %q", status, stdout, stderr)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 1 {
		t.Errorf("it created %v, %v", left, err)
	}
}

// TestStateDirectory: `serve` and `run` have their lists in the first directory for state of a service.
func TestStateDirectory(t *testing.T) {
	path := filepath.Join(t.TempDir(), "sotto.toml")
	e2e.WriteFile(t, path, "")
	for _, command := range []string{"serve", "run"} {
		var errs bytes.Buffer
		e := &env{stdin: strings.NewReader(""), stdout: &errs, stderr: &errs, getenv: func(name string) string {
			return map[string]string{"STATE_DIRECTORY": "one:/two"}[name]
		}}
		// A path that is not absolute shows that it is used.
		if status := e.main(t.Context(), []string{command, "--check", "--config", path}); status == 0 || !strings.Contains(errs.String(), `"one/lists" is not an absolute path`) {
			t.Errorf("%s: status %d, %s", command, status, &errs)
		}
	}
}

// TestPortInUse: a second `serve` at the same port would get a part of the queries. One `serve` may list an
// address twice.
func TestPortInUse(t *testing.T) {
	s, stop := startServing(t, "")
	serve := func(ctx context.Context, args ...string) int {
		e := &env{stdin: strings.NewReader(""), stdout: s, stderr: s, getenv: func(string) string { return "" }}
		return e.main(ctx, append([]string{"serve", "--listen", s.addr, "--config", s.config}, args...))
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second) // if it is not refused
	defer cancel()
	if status := serve(ctx, "--control", s.control+"2"); status != exitFailure || !strings.Contains(s.log(), "another program has this port") {
		t.Errorf("status %d, %s", status, s.log())
	}
	stop()
	ctx, cancel = context.WithCancel(t.Context())
	defer cancel()
	done := make(chan int, 1)
	logged := strings.Count(s.log(), "msg=answering address="+s.addr)
	go func() { done <- serve(ctx, "--listen", s.addr) }()
	e2e.Eventually(t, "serve at an address that is listed twice", func() bool {
		return strings.Count(s.log(), "msg=answering address="+s.addr) == logged+2 || len(done) > 0
	})
	cancel()
	if status := <-done; status != 0 {
		t.Errorf("status %d: %s", status, s.log())
	}
}
