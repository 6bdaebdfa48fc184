// SPDX-License-Identifier: Apache-2.0

package exec

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"sotto/internal/e2e"
	"sotto/internal/netlab"
	"sotto/internal/netlab/labtest"
)

const nobodyID = 65534

// scope is a cgroup that root has delegated to a user, as systemd does below
// user@1000.service, with two cgroups in it that the user also owns.
type scope struct {
	w              world
	top, app, free *netlab.Cgroup
}

func (w world) scope() *scope {
	w.T.Helper()
	s := &scope{w: w, top: w.Cgroup("scope")}
	var errs [2]error
	s.app, errs[0] = w.Lab.Below(s.top, "app")
	s.free, errs[1] = w.Lab.Below(s.top, "free")
	if err := errors.Join(errs[:]...); err != nil {
		w.T.Fatal(err)
	}
	for _, g := range []*netlab.Cgroup{s.top, s.app, s.free} {
		for _, name := range []string{"", "cgroup.procs", "cgroup.threads", "cgroup.subtree_control"} {
			if err := os.Chown(filepath.Join(g.Path, name), nobodyID, nobodyID); err != nil {
				w.T.Fatal(err)
			}
		}
	}
	return s
}

// asUser runs a script as the scope's owner, in a cgroup of the scope.
func (s *scope) asUser(g *netlab.Cgroup, script string) string {
	s.w.T.Helper()
	out, err := s.w.Host.Command(s.w.T.Context(), g, labtest.NeedTool(s.w.T, "setpriv"),
		"--reuid", fmt.Sprint(nobodyID), "--regid", fmt.Sprint(nobodyID), "--clear-groups", "sh", "-c", script).CombinedOutput()
	if err != nil {
		s.w.T.Fatalf("%s: %v\n%s", script, err, out)
	}
	return string(out)
}

// command prepares a sotto that is started in the scope by root.
func (s *scope) command(args ...string) *netlab.Cmd {
	return s.w.Command(s.w.T.Context(), s.app, args...)
}

// exec runs a script sealed, from a cgroup of the scope.
func (s *scope) exec(flags []string, script string) string {
	s.w.T.Helper()
	cmd := s.command(append(append(append([]string{"exec"}, s.w.UpstreamArgs()...), flags...), "--", "sh", "-c", script)...)
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		s.w.T.Fatal(err)
	}
	s.w.Track(cmd)
	return string(out)
}

// nothingLeft fails the test if state of Sotto is left, or the cgroup of a command in the
// scope.
func (s *scope) nothingLeft() {
	s.w.T.Helper()
	s.w.NothingLeft()
	for _, dir := range []string{s.top.Path, s.app.Path} {
		if left, err := filepath.Glob(dir + "/sotto-exec-*"); err != nil || len(left) > 0 {
			s.w.T.Errorf("left: %v, %v", left, err)
		}
	}
}

// move returns a script that moves a process into the cgroup free.
func (s *scope) move(pid string) string {
	return fmt.Sprintf("echo %s > %s/cgroup.procs && echo moved by procs; true", pid, s.free.Path)
}

// TestExecDelegated checks that a user who owns the cgroup from which a command was started
// cannot move it out of the seal, neither from inside nor from outside.
func TestExecDelegated(t *testing.T) {
	w := newWorld(t)
	w.Watch()
	s := w.scope()
	text, err := os.ReadFile("testdata/clone_into.py")
	if err != nil {
		t.Fatal(err)
	}
	clone := filepath.Join(t.TempDir(), "clone_into.py")
	if err := os.Chmod(filepath.Dir(filepath.Dir(clone)), 0o755); err != nil { // readable for the user
		t.Fatal(err)
	}
	e2e.WriteFile(t, clone, string(text))
	python := labtest.NeedTool(t, "/usr/bin/python3")
	escape := s.move("$$") + fmt.Sprintf("\n%s %s %s\n", python, clone, s.free.Path)

	// Unsealed, the user can do all that is tried below.
	out := s.asUser(s.app, escape)
	for _, want := range []string{"moved by procs", "cloned into"} {
		if !strings.Contains(out, want) {
			t.Errorf("the scope's owner, unsealed: no %q in\n%s", want, out)
		}
	}

	out = s.exec([]string{"--user", "nobody"}, "id -u\ncat /proc/self/cgroup\n"+escape+"\n"+
		labtest.NeedTool(t, "dig")+" +short +tries=1 +timeout=4 @8.8.8.8 inside.example")
	if strings.Contains(out, "moved") || strings.Contains(out, "cloned") || !strings.Contains(out, "clone refused: EACCES") {
		t.Errorf("the command left its cgroup:\n%s", out)
	}
	if !strings.HasPrefix(out, fmt.Sprintln(nobodyID)) || !strings.HasSuffix(out, e2e.Sealed4+"\n") {
		t.Errorf("want it to run as nobody, and its query answered:\n%s", out)
	}
	if strings.Contains(out, filepath.Base(s.top.Path)) {
		t.Errorf("its cgroup is below the delegated one:\n%s", out)
	}

	p := s.start("--user", "nobody")
	for _, g := range []*netlab.Cgroup{s.app, s.free} {
		if out := s.asUser(g, s.move(p.pid())); strings.Contains(out, "moved") {
			t.Errorf("moved from outside:\n%s", out)
		}
	}
	p.finish()
	s.nothingLeft()
}

// sealed is a sealed command that runs until its standard input is closed.
type sealed struct {
	s   *scope
	cmd *netlab.Cmd
	in  interface{ Close() error }
	out bytes.Buffer
}

// start starts a sealed command and waits until it runs.
func (s *scope) start(flags ...string) *sealed {
	s.w.T.Helper()
	p := &sealed{s: s}
	p.cmd = s.command(append(append(append([]string{"exec"}, s.w.UpstreamArgs()...), flags...), "--", "sh", "-c", "echo $$; exec cat")...)
	in, err := p.cmd.StdinPipe()
	if err != nil {
		s.w.T.Fatal(err)
	}
	p.in = in
	r, wr, err := os.Pipe()
	if err != nil {
		s.w.T.Fatal(err)
	}
	p.cmd.Stdout, p.cmd.Stderr = wr, os.Stderr
	if err := errors.Join(p.cmd.Start(), wr.Close()); err != nil {
		s.w.T.Fatal(err)
	}
	s.w.Track(p.cmd)
	s.w.T.Cleanup(func() { _ = errors.Join(p.in.Close(), r.Close()) })
	b := make([]byte, 1)
	for b[0] != '\n' {
		if _, err := r.Read(b); err != nil {
			s.w.T.Fatalf("the command did not start: %v", err)
		}
		p.out.Write(b)
	}
	return p
}

// pid returns the process ID of the command.
func (p *sealed) pid() string { return strings.TrimSpace(p.out.String()) }

// group returns the directory of the command's cgroup.
func (p *sealed) group() string {
	t := p.s.w.T
	text, err := os.ReadFile("/proc/" + p.pid() + "/cgroup")
	if err != nil {
		t.Fatal(err)
	}
	root, err := netlab.CgroupRoot()
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if path, ok := strings.CutPrefix(strings.TrimSpace(line), "0::"); ok {
			return filepath.Join(root, path)
		}
	}
	t.Fatalf("no cgroup2 in\n%s", text)
	return ""
}

// finish stops the command, and with it Sotto.
func (p *sealed) finish() {
	p.s.w.T.Helper()
	if err := errors.Join(p.in.Close(), p.cmd.Wait()); err != nil {
		p.s.w.T.Error(err)
	}
}

// TestExecDelegatedKilled checks that 'sotto down' and the next start remove the cgroup of a
// killed exec that is outside of exec's own cgroup.
func TestExecDelegatedKilled(t *testing.T) {
	w := newWorld(t)
	s := w.scope()
	for _, how := range []string{"down", "the next start"} {
		p := s.start()
		dir, pid := p.group(), p.pid()
		if filepath.Dir(dir) != filepath.Dir(s.top.Path) {
			t.Errorf("the command is in %s, want it beside %s", dir, s.top.Path)
		}
		if err := p.cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		_ = p.cmd.Wait() // "signal: killed"
		if _, err := os.Stat(dir); err != nil {
			t.Errorf("%s: the cgroup was removed with Sotto: %v", how, err)
		}
		if how == "down" {
			if _, stderr, status := w.Sotto("down"); status != 0 {
				t.Errorf("down: status %d, %s", status, stderr)
			}
		} else if out := s.exec(nil, "echo next"); out != "next\n" {
			t.Errorf("the next exec: %q", out)
		}
		if _, err := os.Stat(dir); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: %s is left: %v", how, dir, err)
		}
		if stat, err := os.ReadFile("/proc/" + pid + "/stat"); err == nil && !strings.Contains(string(stat), ") Z ") {
			t.Errorf("%s: the command still runs: %s", how, stat)
		}
		s.nothingLeft()
	}
}

// TestExecNested checks that the cgroup of an exec inside another exec is below that of the
// outer one, also if that was delegated. Inside a scope that 'sotto run' seals, exec seals
// its command itself.
func TestExecNested(t *testing.T) {
	w := newWorld(t)
	w.Watch()
	s := w.scope()
	// The inner exec finds the directory hidden by the outer one.
	const sockets = "/run/systemd/resolve"
	if err := os.MkdirAll(sockets, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.Remove(sockets) }) // fails unless it is empty
	dig := labtest.NeedTool(t, "dig")
	self := strings.Join(append([]string{w.Program.Path, "exec"}, w.UpstreamArgs()...), " ")
	show := " -- sh -c 'grep ^0:: /proc/self/cgroup; " + dig + " +short @8.8.8.8 nested.example'"
	root, err := netlab.CgroupRoot()
	if err != nil {
		t.Fatal(err)
	}
	for name, script := range map[string]string{
		"plain": self + show,
		"delegated": "own=" + root + "$(sed -n s/^0:://p /proc/self/cgroup); mkdir $own/sub; chown nobody $own/sub $own/sub/cgroup.procs; " +
			"echo $$ > $own/sub/cgroup.procs; grep ^0:: /proc/self/cgroup >&2; " + self + show,
	} {
		out := s.exec(nil, script)
		lines := strings.Fields(out)
		path, answer := "", ""
		if len(lines) >= 2 {
			path, answer = strings.TrimPrefix(lines[len(lines)-2], "0::"), lines[len(lines)-1]
		}
		parts := strings.Split(strings.TrimPrefix(path, "/"), "/")
		if len(parts) != 2 || !strings.HasPrefix(parts[0], "sotto-exec-") || !strings.HasPrefix(parts[1], "sotto-exec-") || answer != e2e.Sealed4 {
			t.Errorf("%s: want a cgroup sotto-exec-N/sotto-exec-N and %s:\n%s", name, e2e.Sealed4, out)
		}
	}

	p := w.Start("msg=sealed", append(w.RunArgs(s.top), "--log-queries")...)
	if out := s.exec(nil, dig+" +short @8.8.8.8 inner.example"); out != e2e.Sealed4+"\n" {
		t.Errorf("inside an outer seal: %q", out)
	}
	if out := w.Dig(w.Host, s.app, "@8.8.8.8", "outer.example"); !strings.Contains(out, e2e.Sealed4) {
		t.Errorf("the outer seal:\n%s", out)
	}
	if log := p.Log(); strings.Contains(log, "inner.example") || !strings.Contains(log, "outer.example") {
		t.Error("the outer seal answered the query of the inner one, or not its own")
	}
	w.Stop(p)
	s.nothingLeft()
}

// TestLeavableWarning checks that 'sotto run' warns of cgroups that users can leave or enter.
func TestLeavableWarning(t *testing.T) {
	w := newWorld(t)
	s := w.scope()
	safe := w.Cgroup("safe")
	p := w.Start("msg=sealed", append(w.RunArgs(s.app, s.top, safe), "--exclude", s.free.Path)...)
	for _, tc := range []struct {
		move string
		g    *netlab.Cgroup
		want bool
	}{{"out of a sealed", s.app, true}, {"into an excluded", s.free, true}, {"out of a sealed", s.top, false}, {"out of a sealed", safe, false}} {
		got := false
		for line := range strings.Lines(p.Log()) {
			got = got || strings.Contains(line, "can move processes "+tc.move) && strings.Contains(line, "cgroup="+tc.g.Path+" ")
		}
		if got != tc.want {
			t.Errorf("%s %s: warned %v, want %v", tc.move, tc.g.Path, got, tc.want)
		}
	}
	w.Stop(p)
	w.NothingLeft()
}
