// SPDX-License-Identifier: Apache-2.0

package exec

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"sotto/internal/e2e"
	"sotto/internal/netlab/labtest"
)

// callerOf starts `sotto exec` with an environment, a working directory and open files.
type callerOf struct {
	w     world
	env   []string
	dir   string
	files []*os.File
	front []string // command line that starts sotto
}

func (c callerOf) exec(flags []string, args ...string) (stdout, stderr string, status int) {
	c.w.T.Helper()
	line := append(append(append(slices.Clone(c.front), c.w.Program.Path, "exec"), c.w.UpstreamArgs()...), flags...)
	line = append(append(line, "--"), args...)
	cmd := c.w.Host.Command(c.w.T.Context(), nil, line[0], line[1:]...)
	cmd.Env = append([]string{"PATH=" + os.Getenv("PATH"), e2e.RaceEnv}, c.env...)
	cmd.Dir, cmd.ExtraFiles = c.dir, c.files
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		c.w.T.Fatal(err)
	}
	c.w.Track(cmd)
	return out.String(), errs.String(), cmd.ProcessState.ExitCode()
}

// TestExecUserEnvironment checks that a command that runs as another user gets that user's
// environment and only some variables of root's, and without --user root's.
func TestExecUserEnvironment(t *testing.T) {
	w := newWorld(t)
	bin := t.TempDir()
	e2e.WriteFile(t, filepath.Join(bin, "only-roots"), "#!/bin/sh\necho found\n")
	if err := os.Chmod(filepath.Join(bin, "only-roots"), 0o755); err != nil {
		t.Fatal(err)
	}
	kept := []string{"TERM=xterm-256color", "COLORTERM=truecolor", "NO_COLOR=1", "LANG=C.UTF-8", "LANGUAGE=en", "LC_TIME=C", "TZ=UTC"}
	secret := []string{"API_TOKEN=hunter2", "SSH_AUTH_SOCK=/root/agent", "HOME=/root", "USER=root", "LOGNAME=root", "SHELL=/bin/bash",
		"MAIL=/var/mail/root", "LD_LIBRARY_PATH=/root/lib", "XLC_TIME=x", "TERMINAL=x"}
	c := callerOf{w: w, env: slices.Concat(kept, secret, []string{"PATH=" + bin + ":" + os.Getenv("PATH")}), dir: "/"}

	out, errs, status := c.exec([]string{"--user", "nobody"}, "env")
	got := strings.Fields(out)
	want := append(slices.Clone(kept), "HOME=/nonexistent", "USER=nobody", "LOGNAME=nobody", "SHELL="+shellOf(t, "nobody"), "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
	slices.Sort(got)
	slices.Sort(want)
	if status != 0 || !slices.Equal(got, want) {
		t.Errorf("status %d, %s\ngot  %q\nwant %q", status, errs, got, want)
	}
	if out, errs, status := c.exec([]string{"--user", "65534"}, "env", "MORE=given", "sh", "-c", "echo $MORE $USER $API_TOKEN"); out != "given nobody\n" {
		t.Errorf("by number, with env(1): %q, status %d, %s", out, status, errs)
	}
	out, errs, status = c.exec(nil, "env")
	for _, v := range append(slices.Clone(kept), secret...) {
		if !slices.Contains(strings.Split(out, "\n"), v) {
			t.Errorf("without --user: status %d, no %s in\n%s%s", status, v, out, errs)
		}
	}
	if out, errs, _ := c.exec(nil, "only-roots"); out != "found\n" {
		t.Errorf("without --user: %q, %s", out, errs)
	}
	if out, errs, status := c.exec([]string{"--user", "nobody"}, "only-roots"); status != e2e.ExitNotFound {
		t.Errorf("a program in root's PATH: status %d, %q, %s", status, out, errs)
	}
	if _, errs, status := c.exec([]string{"--user", "no-such-user"}, "true"); status != e2e.ExitUsage || !strings.Contains(errs, "no-such-user") {
		t.Errorf("an unknown user: status %d, %q", status, errs)
	}
	w.NothingLeft()
}

// shellOf returns the shell of a user in /etc/passwd.
func shellOf(t *testing.T, user string) string {
	t.Helper()
	text, err := os.ReadFile("/etc/passwd")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if f := strings.Split(strings.TrimSpace(line), ":"); len(f) == 7 && f[0] == user {
			return f[6]
		}
	}
	t.Fatalf("no user %s in /etc/passwd", user)
	return ""
}

// TestExecUserCredentials checks that the command has the IDs and groups of its user, and no
// groups or capabilities of root.
func TestExecUserCredentials(t *testing.T) {
	w := newWorld(t)
	group := filepath.Join(t.TempDir(), "group")
	text, err := os.ReadFile("/etc/group")
	if err != nil {
		t.Fatal(err)
	}
	e2e.WriteFile(t, group, string(text)+"sotto-a:x:54321:nobody\nsotto-b:x:54322:daemon,nobody\nsotto-c:x:54323:daemon\n")
	c := callerOf{w: w, front: []string{"unshare", "--mount", "sh", "-c", `mount --bind "$0" /etc/group && exec "$@"`, group,
		labtest.NeedTool(t, "setpriv"), "--groups", "0,4,54323"}}
	for user, want := range map[string][]string{
		"nobody": {"Uid:\t65534\t65534\t65534\t65534\n", "Gid:\t65534\t65534\t65534\t65534\n", "Groups:\t54321 54322 65534 \n", "CapPrm:\t0000000000000000\n", "CapEff:\t0000000000000000\n"},
		"":       {"Uid:\t0\t0\t0\t0\n", "Groups:\t0 4 54323 \n"},
	} {
		var flags []string
		if user != "" {
			flags = []string{"--user", user}
		}
		out, errs, status := c.exec(flags, "cat", "/proc/self/status")
		for _, line := range want {
			if status != 0 || !strings.Contains(out, line) {
				t.Errorf("user %q: status %d, no %q in\n%s%s", user, status, line, out, errs)
			}
		}
	}
	w.NothingLeft()
}

// TestExecUserDirectory checks that the working directory of a command is one that its user
// can enter.
func TestExecUserDirectory(t *testing.T) {
	w := newWorld(t)
	// Not t.TempDir, which only its owner can enter.
	top, err := os.MkdirTemp("/tmp", "sotto-test-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(top) })
	open, closed, below := filepath.Join(top, "open"), filepath.Join(top, "closed"), filepath.Join(top, "closed", "below")
	if err := errors.Join(os.Mkdir(open, 0o755), os.MkdirAll(below, 0o755), os.Chmod(closed, 0o700), os.Chmod(top, 0o755)); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(below, "bin"), 0o755); err != nil {
		t.Fatal(err)
	}
	e2e.WriteFile(t, filepath.Join(below, "bin/true"), "#!/bin/sh\n")
	if err := os.Chmod(filepath.Join(below, "bin/true"), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct{ dir, user, want string }{
		{open, "nobody", open}, {closed, "nobody", "/"}, {below, "nobody", "/"}, {below, "", below}, {below, "root", below},
	} {
		var flags []string
		if tc.user != "" {
			flags = []string{"--user", tc.user}
		}
		out, errs, status := callerOf{w: w, dir: tc.dir}.exec(flags, "readlink", "/proc/self/cwd")
		if status != 0 || out != tc.want+"\n" {
			t.Errorf("%q in %s: status %d, %q, want %s\n%s", tc.user, tc.dir, status, out, tc.want, errs)
		}
	}
	// A relative path is not looked up in the other directory, which has such a program.
	if _, errs, status := (callerOf{w: w, dir: below}).exec([]string{"--user", "nobody"}, "bin/true"); status != e2e.ExitCannotRun || !strings.Contains(errs, "permission denied") {
		t.Errorf("an unreachable program: status %d, %s", status, errs)
	}
	w.NothingLeft()
}

// TestExecUserFiles checks that a command of another user inherits no files of root, and that
// no command inherits files of Sotto.
func TestExecUserFiles(t *testing.T) {
	w := newWorld(t)
	path := filepath.Join(t.TempDir(), "secret")
	e2e.WriteFile(t, path, "secret\n")
	secret, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer secret.Close()
	c := callerOf{w: w, dir: "/", files: []*os.File{secret}} // descriptor 3
	if out, errs, status := c.exec([]string{"--user", "nobody"}, "sh", "-c", "cat <&3"); status == 0 || out != "" {
		t.Errorf("with --user: status %d, %q, %s", status, out, errs)
	}
	if out, errs, status := c.exec(nil, "sh", "-c", "cat <&3"); status != 0 || out != "secret\n" {
		t.Errorf("without --user: status %d, %q, %s", status, out, errs)
	}
	// Without Sotto. The highest descriptor is the directory that is listed.
	plain := w.Host.Command(t.Context(), nil, "ls", "/proc/self/fd")
	plain.ExtraFiles = c.files
	callers, err := plain.Output()
	if err != nil {
		t.Fatal(err)
	}
	for user, want := range map[string]string{"nobody": "0\n1\n2\n3\n", "": string(callers)} {
		var flags []string
		if user != "" {
			flags = []string{"--user", user}
		}
		if out, errs, _ := c.exec(flags, "ls", "/proc/self/fd"); out != want {
			t.Errorf("user %q: open files are %q, want %q\n%s", user, out, want, errs)
		}
	}
	w.NothingLeft()
}
