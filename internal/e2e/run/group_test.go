// SPDX-License-Identifier: Apache-2.0

package run

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

	"golang.org/x/sys/unix"

	"sotto/internal/e2e"
	"sotto/internal/netlab/labtest"
)

// operator is a user without root that runs sotto.
type operator struct {
	w       world
	program string // a copy that all users can run
	groups  string // argument of setpriv
}

func (w world) newOperator(groups string) operator {
	w.T.Helper()
	dir, err := os.MkdirTemp("", "sotto-operator")
	if err != nil {
		w.T.Fatal(err)
	}
	w.T.Cleanup(func() { os.RemoveAll(dir) })
	text, err := os.ReadFile(w.Program.Path)
	if err != nil {
		w.T.Fatal(err)
	}
	program := filepath.Join(dir, "sotto")
	if err := errors.Join(os.WriteFile(program, text, 0o755), os.Chmod(dir, 0o755), os.Chmod(program, 0o755)); err != nil {
		w.T.Fatal(err)
	}
	return operator{w, program, groups}
}

// sotto runs a command and returns its output.
func (o operator) sotto(args ...string) string {
	o.w.T.Helper()
	setpriv := labtest.NeedTool(o.w.T, "setpriv")
	args = append([]string{"--reuid=65534", "--regid=65534", o.groups, "--inh-caps=-all", "--bounding-set=-all", "--no-new-privs", o.program}, args...)
	cmd := o.w.Host.Command(context.Background(), nil, setpriv, args...)
	cmd.Env = append(append(os.Environ(), e2e.RaceEnv), o.w.Program.Env...)
	cmd.Dir = "/"
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	var failed *exec.ExitError
	if err := cmd.Run(); err != nil && !errors.As(err, &failed) {
		o.w.T.Fatal(err)
	}
	return out.String()
}

// TestControlGroupOfRun: members of control-group read over the control socket and change nothing,
// after privileges were dropped, while an exec uses the same directory, and after a takeover; other
// users cannot connect.
func TestControlGroupOfRun(t *testing.T) {
	w := newWorld(t)
	g := w.Cgroup("workload")
	const gid = 4242
	config := filepath.Join(t.TempDir(), "sotto.toml")
	e2e.WriteFile(t, config, fmt.Sprintf("control-group = \"%d\"\n", gid))
	args := append(w.RunArgs(g), "--config", config)
	p := w.Start("msg=sealed", args...)
	member, other := w.newOperator(fmt.Sprintf("--groups=%d", gid)), w.newOperator("--clear-groups")
	check := func(when string) {
		t.Helper()
		w.CheckSealed(when, g)
		for command, want := range map[string]string{
			"status": "ready", "explain www.example.com": "Upstreams", "status --json": filepath.Base(g.Path),
			"__complete trace --workload /": "/" + filepath.Base(g.Path) + "\t",
			"reload":                        "members of control-group may only read",
			"cache flush":                   "members of control-group may only read",
			"log-level debug":               "members of control-group may only read",
		} {
			if out := member.sotto(strings.Fields(command)...); !strings.Contains(out, want) {
				t.Errorf("%s: a member: %s: %q", when, command, out)
			}
			if out := other.sotto(strings.Fields(command)...); strings.Contains(out, want) || !strings.Contains(command, "__complete") && !strings.Contains(out, "permission denied") {
				t.Errorf("%s: another user: %s: %q", when, command, out)
			}
		}
	}
	check("after the start")
	if out, errs, code := w.Exec("true"); code != 0 {
		t.Errorf("exec: status %d\n%s%s", code, out, errs)
	}
	check("after an exec")
	p = w.Replace(p, args...)
	check("after a takeover")
	if out, errs, code := w.Sotto("reload"); code != 0 {
		t.Errorf("root: status %d\n%s%s", code, out, errs)
	}
	w.Signal(p, unix.SIGTERM)
	w.WaitExit(p)
	w.NothingLeft()
}
