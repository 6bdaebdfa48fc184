// SPDX-License-Identifier: Apache-2.0

package archtest

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestOpenRC checks that the service of OpenRC can be replaced, and can take over again:
// supervise-daemon starts a process again whatever its status was, and starts a new one in the cgroup of
// the one that was replaced.
func TestOpenRC(t *testing.T) {
	script, err := os.ReadFile(filepath.Join(root(t), "deploy/packages/apk/sotto.initd"))
	if err != nil {
		t.Fatal(err)
	}
	args := strings.Fields(strings.Trim(setting(string(script), "command_args"), `"`))
	if got, want := strings.Join(args, " "), "run --replace=back --when-replaced=wait"; setting(string(script), "supervisor") != "supervise-daemon" || got != want {
		t.Errorf("the service runs %q, want %q", got, want)
	}
	upgrade := strings.Join(commands(t, "Upgrade"), "\n")
	other, restart := strings.Index(upgrade, "sudo sotto run --replace"), strings.Index(upgrade, "sudo rc-service sotto restart")
	if other < 0 || restart < other {
		t.Errorf("docs/OPERATING.md does not start another process before the restart:\n%s", upgrade)
	}
}
