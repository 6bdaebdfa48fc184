// SPDX-License-Identifier: Apache-2.0

package path

import (
	"net"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"sotto/internal/e2e"
	"sotto/internal/netlab"
)

func TestMain(m *testing.M) { e2e.Main(m) }

type world struct{ *e2e.World }

func newWorld(t *testing.T) world {
	t.Helper()
	w := world{e2e.New(t)}
	w.Watch()
	return w
}

const (
	warning = "do not reach Sotto"
	tested  = "tested the path of" // the last line of a test
)

// run starts a `run` that seals cgroups, and waits until the test of their path has finished.
func (w world) run(groups ...*netlab.Cgroup) *e2e.Process {
	w.T.Helper()
	p := w.Start(tested, append(w.RunArgs(groups...), "--log-level", "debug")...)
	for _, g := range groups {
		if left := w.temporary(g); len(left) > 0 {
			w.T.Errorf("cgroups are left: %v", left)
		}
	}
	return p
}

// temporary returns the cgroups that tests have created below g.
func (w world) temporary(g *netlab.Cgroup) []string {
	w.T.Helper()
	found, err := filepath.Glob(g.Path + "/sotto-path-test-*")
	if err != nil {
		w.T.Fatal(err)
	}
	return found
}

// blocked is a warning of the log.
type blocked struct{ cgroup, netns, transport, block, fix string }

// warnings returns the warnings about lost queries.
func (w world) warnings(p *e2e.Process) (all []blocked) {
	w.T.Helper()
	for line := range strings.Lines(p.Log()) {
		if !strings.Contains(line, warning) || !strings.Contains(line, "level=WARN") {
			continue
		}
		all = append(all, blocked{
			w.attr(line, "cgroup"), w.attr(line, "netns"), w.attr(line, "transport"), w.attr(line, "block"), w.attr(line, "fix"),
		})
	}
	return all
}

// attr returns the value of an attribute in a line of the log, or "".
func (w world) attr(line, key string) string {
	w.T.Helper()
	m := regexp.MustCompile(` ` + key + `=("(?:[^"\\]|\\.)*"|\S+)`).FindStringSubmatch(line)
	if m == nil {
		return ""
	}
	if !strings.HasPrefix(m[1], `"`) {
		return m[1]
	}
	value, err := strconv.Unquote(m[1])
	if err != nil {
		w.T.Fatalf("%s: %v", m[1], err)
	}
	return value
}

// one returns the only warning.
func (w world) one(p *e2e.Process) blocked {
	w.T.Helper()
	all := w.warnings(p)
	if len(all) != 1 {
		w.T.Fatalf("%d warnings, want 1:\n%s", len(all), p.Log())
	}
	return all[0]
}

// answered reports whether queries from a host and a cgroup are answered by the upstream.
func (w world) answered(h *netlab.Host, g *netlab.Cgroup, nameserver string) bool {
	w.T.Helper()
	for _, how := range []string{"+notcp", "+tcp"} {
		if !strings.Contains(w.Dig(h, g, "+timeout=2", how, "@"+nameserver, "path.example"), e2e.Sealed4) {
			return false
		}
	}
	return true
}

// index returns the index of one of the host's interfaces.
func (w world) index(name string) (index int) {
	w.T.Helper()
	err := w.Host.Do(func() error {
		link, err := net.InterfaceByName(name)
		if err == nil {
			index = link.Index
		}
		return err
	})
	if err != nil {
		w.T.Fatal(err)
	}
	return index
}
