// SPDX-License-Identifier: Apache-2.0

package check

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"sotto/internal/check"
	"sotto/internal/e2e"
	"sotto/internal/netlab"
	"sotto/internal/netlab/labtest"
)

func TestMain(m *testing.M) { e2e.Main(m) }

// world is a host whose wire is watched: no check may send a packet in the clear.
type world struct{ *e2e.World }

func newWorld(t *testing.T) world {
	t.Helper()
	w := world{e2e.New(t)}
	w.Watch()
	return w
}

// machine is how `sotto check` is started.
type machine struct {
	setup  string         // shell commands in a mount namespace of its own
	prefix []string       // command line before that of sotto
	cgroup *netlab.Cgroup // nil: that of the test
	args   []string       // with those of the upstream, unless they name one
}

// want is a result that is not ok.
type want struct {
	name        string
	state       check.State
	detail, fix string // parts of the texts
}

// run runs `sotto check` on the machine, and returns its output and exit status.
func (w world) run(m machine, args ...string) (stdout string, status int) {
	w.T.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), labtest.Patience(time.Minute))
	defer cancel()
	line := append(slices.Clone(m.prefix), w.Program.Path, "check")
	line = append(append(line, m.args...), args...)
	if !slices.Contains(m.args, "--upstream") {
		line = append(line, w.UpstreamArgs()...)
	}
	shell := []string{"--mount", "--propagation", "private", "sh", "-ec", m.setup + "\nexec \"$@\"", "sh"}
	cmd := w.Host.Command(ctx, m.cgroup, "unshare", append(shell, line...)...)
	cmd.Env = append(os.Environ(), e2e.RaceEnv)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	_ = cmd.Run() // the status is compared
	if errs.Len() > 0 {
		w.T.Errorf("stderr: %s", errs.String())
	}
	w.Track(cmd)
	return out.String(), cmd.ProcessState.ExitCode()
}

// expect runs the check and compares the results that are not ok with the wanted ones.
func (w world) expect(m machine, wanted ...want) check.Report {
	w.T.Helper()
	out, status := w.run(m, "--json")
	var r check.Report
	if err := json.Unmarshal([]byte(out), &r); err != nil {
		w.T.Fatalf("%v: %s", err, out)
	}
	state := check.OK
	for _, x := range wanted {
		i := slices.IndexFunc(r.Results, func(got check.Result) bool { return got.Name == x.name })
		if i < 0 {
			w.T.Errorf("no result %q:\n%s", x.name, out)
			continue
		}
		if got := r.Results[i]; got.State != x.state || !strings.Contains(got.Detail, x.detail) || !strings.Contains(got.Fix, x.fix) || (x.fix == "") != (got.Fix == "") {
			w.T.Errorf("got  %+v\nwant %+v", got, x)
		}
		if x.state == check.Failed || x.state == check.Warning && state == check.OK {
			state = x.state
		}
	}
	for _, got := range r.Results {
		if got.State != check.OK && !slices.ContainsFunc(wanted, func(x want) bool { return x.name == got.Name }) {
			w.T.Errorf("unexpected: %+v", got)
		}
	}
	wantStatus := 0
	if state == check.Failed {
		wantStatus = 1
	}
	if r.State != state || status != wantStatus {
		w.T.Errorf("state %s, status %d: want %s, %d", r.State, status, state, wantStatus)
	}
	return r
}

// file writes a file that the commands of a machine can mount.
func (w world) file(text string) string {
	w.T.Helper()
	path := filepath.Join(w.T.TempDir(), "file")
	e2e.WriteFile(w.T, path, text)
	return path
}
