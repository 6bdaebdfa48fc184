// SPDX-License-Identifier: Apache-2.0

package cgroup

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"

	"sotto/internal/netlab/labtest"
)

// enterEnv makes this test binary call EnterHost instead of running tests.
const enterEnv = "SOTTO_TEST_ENTER_HOST"

func TestMain(m *testing.M) {
	if os.Getenv(enterEnv) == "" {
		os.Exit(m.Run())
	}
	if err := enter(); err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
}

func enter() error {
	pid := os.Getpid()
	if err := EnterHost(); err != nil {
		return err
	}
	root, err := Root()
	if err != nil {
		return err
	}
	own, err := Own()
	if err != nil {
		return err
	}
	fmt.Println(pid == os.Getpid(), root, strings.TrimPrefix(own, root), os.Args[1:])
	return nil
}

// TestEnterHost: a process with cgroup and mount namespaces of its own sees the whole hierarchy
// if it shares the PID namespace of PID 1 and may enter the other's cgroup namespace.
func TestEnterHost(t *testing.T) {
	labtest.NeedRoot(t)
	c := labtest.NewCgroup(t)
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	const hidden = "umount -R /sys/fs/cgroup; "
	for name, tc := range map[string]struct{ flags, script, want string }{
		"a bind mount":   {"", "", "true " + root(t) + " " + strings.TrimPrefix(c.Path, root(t)) + " [a b]"},
		"no mount":       {"", hidden, "true /sys/fs/cgroup " + strings.TrimPrefix(c.Path, root(t)) + " [a b]"},
		"no SYS_PTRACE":  {"", "drop='setpriv --bounding-set -sys_ptrace'; ", "CAP_SYS_PTRACE is missing; in Kubernetes"},
		"no SYS_ADMIN":   {"", "drop='setpriv --bounding-set -sys_admin'; ", "setns: operation not permitted; in Kubernetes"},
		"own processes":  {"--pid --fork --mount-proc", "", "hostPID: true"},
		"same namespace": {"-", hidden, "it is not mounted here"},
	} {
		t.Run(name, func(t *testing.T) {
			enter := "unshare --cgroup --mount " + tc.flags
			if tc.flags == "-" {
				enter = "" // PID 1 sees no hierarchy either
			}
			// The host is a PID namespace, whose PID 1 the shell is.
			cmd := exec.CommandContext(t.Context(), "unshare", "--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-c",
				`echo $$ > $0/cgroup.procs; `+enter+` sh -c "$2" $1; exit $?`, c.Path, self, tc.script+"exec $drop $0 a b")
			cmd.Env = append(os.Environ(), enterEnv+"=1")
			out, err := cmd.CombinedOutput()
			if !strings.Contains(string(out), tc.want) || (err == nil) != strings.HasPrefix(tc.want, "true") {
				t.Errorf("%v\n%s want %s", err, out, tc.want)
			}
		})
	}
}

func root(t *testing.T) string {
	t.Helper()
	dir, err := Root()
	if err != nil {
		t.Fatal(err)
	}
	return dir
}
