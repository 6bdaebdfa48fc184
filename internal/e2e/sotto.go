// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"sotto/internal/netlab"
	"sotto/internal/netlab/labtest"
)

// Command prepares a command that runs sotto in the host, and in a cgroup unless that is nil.
func (w *World) Command(ctx context.Context, g *netlab.Cgroup, args ...string) *netlab.Cmd {
	cmd := w.Host.Command(ctx, g, w.Program.Path, args...)
	cmd.Env = append(append(os.Environ(), RaceEnv), w.Program.Env...)
	return cmd
}

// UpstreamArgs returns the flags that select the world's upstream.
func (w *World) UpstreamArgs() []string {
	return []string{"--upstream", UpstreamAddr + "#" + UpstreamName, "--ca-file", w.CAFile}
}

// WholeHostVar is the environment variable that permits tests to seal the root cgroup. It is for
// virtual machines: the root cgroup is that of the whole machine.
const WholeHostVar = "SOTTO_TEST_WHOLE_HOST"

// RunArgs returns the command line of a `run` that seals the cgroups, or without any the whole
// host.
func (w *World) RunArgs(groups ...*netlab.Cgroup) []string {
	w.T.Helper()
	if len(groups) == 0 && os.Getenv(WholeHostVar) == "" {
		w.T.Fatalf("this would seal the whole machine, which is for virtual machines (%s)", WholeHostVar)
	}
	args := append([]string{"run"}, w.UpstreamArgs()...)
	for _, g := range groups {
		args = append(args, "--cgroup", g.Path)
	}
	return args
}

// Exec runs a command sealed and returns its output and exit status.
func (w *World) Exec(args ...string) (stdout, stderr string, status int) {
	w.T.Helper()
	return w.Sotto(append(append([]string{"exec"}, w.UpstreamArgs()...), append([]string{"--"}, args...)...)...)
}

// Sotto runs sotto in the host and returns its output and exit status.
func (w *World) Sotto(args ...string) (stdout, stderr string, status int) {
	w.T.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), labtest.Patience(time.Minute))
	defer cancel()
	cmd := w.Command(ctx, nil, args...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		w.T.Fatalf("sotto %v: %v\n%s", args, err, errs.String())
	}
	w.Track(cmd)
	return out.String(), errs.String(), cmd.ProcessState.ExitCode()
}

// Track records the process ID of a sotto for NothingLeft.
func (w *World) Track(cmd *netlab.Cmd) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.pids = append(w.pids, cmd.Process.Pid)
}

// Replace starts a `run --replace` and waits until it has taken over from p.
func (w *World) Replace(p *Process, args ...string) *Process {
	w.T.Helper()
	n := w.Start("msg=sealed", append(args, "--replace")...)
	select {
	case <-p.Done:
		if p.Err != nil {
			w.T.Errorf("the predecessor exited with: %v", p.Err)
		}
	case <-time.After(labtest.Patience(30 * time.Second)):
		w.T.Fatalf("the predecessor does not exit:\n%s", p.Log())
	}
	w.Until("the takeover to finish", func() bool { return strings.Contains(n.Log(), "took over") })
	return n
}

// ResolvConf returns the start of a command line. The program that follows it has a
// resolv.conf with the nameservers.
func (w *World) ResolvConf(nameservers ...string) []string {
	w.T.Helper()
	return w.ResolvConfText("nameserver " + strings.Join(nameservers, "\nnameserver ") +
		fmt.Sprintf("\noptions timeout:%d attempts:1\n", labtest.Patience(3*time.Second)/time.Second))
}

// ResolvConfText is ResolvConf with the text of the file.
func (w *World) ResolvConfText(text string) []string {
	w.T.Helper()
	path := filepath.Join(w.T.TempDir(), "resolv.conf")
	WriteFile(w.T, path, text)
	return []string{"unshare", "--mount", "sh", "-c", `mount --bind "$0" /etc/resolv.conf && exec "$@"`, path}
}

// WriteFile writes a file, or fails the test.
func WriteFile(t testing.TB, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// Eventually waits until done reports true. It fails the test if it does not in time.
func Eventually(t testing.TB, what string, done func() bool) {
	t.Helper()
	for end := time.Now().Add(labtest.Patience(30 * time.Second)); !done(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("timed out waiting for %s", what)
		}
	}
}
