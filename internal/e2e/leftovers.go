// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"

	"sotto/internal/netlab"
	"sotto/internal/netns"
)

// Patterns of the namespaces of `run` and `exec`, and of their links, routes and tables.
// Those of other tests do not match.
var (
	instanceName = regexp.MustCompile(`^sotto(-[0-9]+)?$`)
	madeBySotto  = regexp.MustCompile(`\bsotto[0-9]+\b|\bsotto\S*_nat\b|\b198\.1[89]\.|fd73:6f74`)
)

// NothingLeft fails the test if state of Sotto is left in this world or on this machine.
func (w *World) NothingLeft() {
	w.T.Helper()
	names, err := netns.Names()
	if err != nil {
		w.T.Error(err)
	}
	for _, n := range names {
		if instanceName.MatchString(n) {
			w.T.Errorf("namespace %s is left", n)
		}
	}
	for what, args := range map[string][]string{
		"link": {"ip", "-o", "link"}, "route": {"ip", "route"}, "route ": {"ip", "-6", "route"}, "table": {"nft", "list", "tables"},
	} {
		out, err := w.Host.Command(w.T.Context(), nil, args[0], args[1:]...).CombinedOutput()
		if err != nil && !errors.Is(err, exec.ErrNotFound) {
			w.T.Errorf("%v: %v", args, err)
		}
		for line := range strings.Lines(string(out)) {
			if madeBySotto.MatchString(line) {
				w.T.Errorf("%s left: %s", what, line)
			}
		}
	}
	root, err := netlab.CgroupRoot()
	if err != nil {
		w.T.Fatal(err)
	}
	patterns := []string{"/sys/fs/bpf/sotto/*", "/run/sotto/*.lock", "/run/sotto/*.sock"}
	for _, pid := range w.pids { // cgroups may be shared with other mount namespaces
		patterns = append(patterns, fmt.Sprintf("%s/sotto-exec-%d", root, pid))
	}
	for _, pattern := range patterns {
		left, err := filepath.Glob(pattern)
		if err != nil || len(left) > 0 {
			w.T.Errorf("left: %v, %v", left, err)
		}
	}
}
