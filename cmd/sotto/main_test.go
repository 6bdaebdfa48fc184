// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"sotto/internal/e2e"
)

// selfEnv makes this test binary run as sotto. The program under test is therefore built like
// the tests, with the race detector if they have it.
const selfEnv = "SOTTO_TEST_SELF"

func TestMain(m *testing.M) {
	// `run` and `check` start their own executable with these commands. Without them it would run all tests again.
	started := len(os.Args) > 1 && (os.Args[1] == pathTestName || os.Args[1] == checkClientName)
	if os.Getenv(selfEnv) == "" && !started {
		e2e.Main(m)
	}
	if err := errors.Join(os.Unsetenv(selfEnv), answerCalls()); err != nil { // its children are not sotto
		panic(err)
	}
	main()
}

// self returns this test binary as the program sotto.
func self() e2e.Program {
	path, err := os.Executable()
	if err != nil {
		panic(err)
	}
	return e2e.Program{Path: path, Env: []string{selfEnv + "=sotto"}}
}

// call runs a command line of sotto in this process.
func call(t *testing.T, args ...string) (stdout, stderr string, status int) {
	t.Helper()
	var out, errs bytes.Buffer
	e := &env{stdin: strings.NewReader(""), stdout: &out, stderr: &errs, getenv: func(string) string { return "" }}
	status = e.main(context.Background(), args)
	return out.String(), errs.String(), status
}

// TestUsage checks that an error is printed on stderr, with its fix, and sets the status.
func TestUsage(t *testing.T) {
	dir := t.TempDir()
	bad := filepath.Join(dir, "bad.toml")
	e2e.WriteFile(t, bad, "cache-mib = 1\nupstreams = [\"quad9\"]\n")
	wrong := filepath.Join(dir, "wrong.toml")
	e2e.WriteFile(t, wrong, "cache-mib = \"much\"\n")
	notCA := filepath.Join(dir, "ca.pem")
	e2e.WriteFile(t, notCA, "not a certificate\n")
	for _, tc := range []struct {
		args   string
		status int
		want   string
	}{
		{"frobnicate", exitUsage, "frobnicate"},
		{"serve --frobnicate", exitUsage, "--frobnicate"},
		{"serve extra", exitUsage, "extra"},
		{"exec", exitUsage, "sotto exec -- CMD"},
		{"serve --listen 127.0.0.1", exitUsage, "want ADDR:PORT"},
		{"serve --listen localhost:53", exitUsage, "not an IP address"},
		{"serve --listen 127.0.0.1:99999", exitUsage, "port number"},
		{"serve --log-level loud", exitUsage, "want debug, info, warn or error"},
		{"serve --cache-mib -1 --listen 127.0.0.1:0", exitUsage, "cache-mib"},
		{"serve --upstream dns.example --listen 127.0.0.1:0", exitUsage, "dns.example"},
		{"serve --pin sha256/short --listen 127.0.0.1:0", exitUsage, "short"},
		{"serve --config " + bad, exitFailure, `bad.toml:2:1: unknown setting "upstreams"`},
		{"serve --config " + wrong, exitFailure, "wrong.toml:1:"},
		{"serve --config /nowhere.toml", exitFailure, "/nowhere.toml"},
		{"serve --ca-file /nowhere.pem --listen 127.0.0.1:0", exitFailure, "/nowhere.pem"},
		{"serve --ca-file " + notCA + " --listen 127.0.0.1:0", exitFailure, "contains no PEM certificate"},
		{"serve --listen 192.0.2.99:0", exitFailure, "192.0.2.99"},
	} {
		t.Run(tc.args, func(t *testing.T) {
			stdout, stderr, status := call(t, strings.Fields(tc.args)...)
			if status != tc.status || stdout != "" || !strings.Contains(stderr, tc.want) || !strings.HasPrefix(stderr, "sotto: ") {
				t.Errorf("status %d, stdout %q, stderr %q: want status %d and %q", status, stdout, stderr, tc.status, tc.want)
			}
		})
	}
}

// TestHelp checks that every verb prints its help on stdout.
func TestHelp(t *testing.T) {
	for _, verb := range []string{"", "exec", "run", "serve", "demo", "demo upstream", "reload", "down", "version", "completion"} {
		stdout, stderr, status := call(t, append(strings.Fields(verb), "--help")...)
		if status != 0 || stderr != "" || !strings.Contains(stdout, "sotto "+verb) {
			t.Errorf("sotto %s --help: status %d, stderr %q, stdout %q", verb, status, stderr, stdout)
		}
	}
	if stdout, _, status := call(t, "version"); status != 0 || !strings.HasPrefix(stdout, "sotto ") {
		t.Errorf("sotto version: %q, status %d", stdout, status)
	}
	if stdout, _, status := call(t, "completion", "bash"); status != 0 || !strings.Contains(stdout, "complete") {
		t.Errorf("sotto completion bash: status %d, %d bytes", status, len(stdout))
	}
}

// TestNeedsRoot checks that verbs that need root say so to other users.
func TestNeedsRoot(t *testing.T) {
	if os.Geteuid() == 0 {
		t.Skip("this process is root")
	}
	for _, args := range []string{"exec -- true", "run", "down", "demo"} {
		_, stderr, status := call(t, strings.Fields(args)...)
		if status != exitFailure || !strings.Contains(stderr, "sudo sotto") {
			t.Errorf("sotto %s: status %d, %q", args, status, stderr)
		}
	}
}

// TestWhenReplacedValue checks the validation of the settings.
func TestWhenReplacedValue(t *testing.T) {
	if _, errs, status := call(t, "run", "--when-replaced=never", "--check"); status != exitUsage || !strings.Contains(errs, "want exit or wait") {
		t.Errorf("--when-replaced=never: status %d\n%s", status, errs)
	}
	if _, errs, status := call(t, "run", "--replace=never", "--check"); status != exitUsage || !strings.Contains(errs, "--replace=back") {
		t.Errorf("--replace=never: status %d\n%s", status, errs)
	}
	for _, flag := range []string{"--replace", "--replace=true", "--replace=false", "--replace=back"} {
		if _, errs, status := call(t, "run", flag, "--check", "--cgroup", "/"); status != 0 {
			t.Errorf("%s: status %d\n%s", flag, status, errs)
		}
	}
}
