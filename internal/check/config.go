// SPDX-License-Identifier: Apache-2.0

package check

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"strings"

	"sotto/intercept"
	"sotto/intercept/cgroup"
	"sotto/internal/config"
	"sotto/internal/control"
	"sotto/internal/daemon"
	"sotto/internal/status"
)

// checkConfig reads the configuration. If it is invalid, the checks that follow use the default
// one, or are skipped.
func checkConfig(_ context.Context, m *machine) Result {
	const name = "configuration"
	s, p, err := m.Daemon.Load()
	if err != nil {
		m.useDefaults()
		return failed(name, "correct it; 'sotto run --check' shows the same error", "%v", err)
	}
	m.valid, m.plan = true, p
	var noCgroup2 *cgroup.NotFoundError
	if m.seal, err = daemon.InstanceConfig(s, p); err != nil && !errors.As(err, &noCgroup2) {
		return failed(name, "name an existing cgroup, or remove the setting; 'systemd-cgls' lists them", "%v", err)
	}
	file := s.File()
	if file == "" {
		file = "defaults and flags, no file"
	}
	if warnings := warningsOf(&p); len(warnings) > 0 {
		return warning(name, "change the setting, if this is not intended", "%s: %s", file, strings.Join(warnings, "; "))
	}
	return ok(name, "%s: groups %s; %d rules", file, p.GroupNames(), len(p.Rules.Uses))
}

// useDefaults sets the default configuration.
func (m *machine) useDefaults() {
	s := config.Default()
	p, err := s.Plan(config.Options{Read: config.ReadFile})
	if err != nil {
		return // the checks that need it are skipped
	}
	m.plan = p
	m.seal, _ = daemon.InstanceConfig(s, p) // checkCgroup2 reports the error
}

// warningsOf returns what the plan warns about.
func warningsOf(p *config.Plan) []string {
	var b strings.Builder
	p.Warn(slog.New(slog.NewTextHandler(&b, &slog.HandlerOptions{ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
		if a.Key == slog.MessageKey {
			return slog.String("", strings.TrimPrefix(a.Value.String(), "configuration: "))
		}
		return slog.Attr{}
	}})))
	return strings.FieldsFunc(b.String(), func(r rune) bool { return r == '\n' })
}

// checkRunning finds a running Sotto, and what a killed one left. The checks that follow are
// about its seal, which may differ from the configuration.
func checkRunning(ctx context.Context, m *machine) Result {
	const name = "running Sotto"
	s, err := m.Status(ctx)
	switch {
	case err == nil:
		m.running = &s
		if s.Seal != nil {
			m.useSeal(s.Seal)
		}
		return describeRunning(name, &s)
	case errors.Is(err, fs.ErrPermission):
		return needsRoot(name)
	case !errors.Is(err, control.ErrNotRunning) && !errors.Is(err, ErrNoSocket):
		return warning(name, "restart it, or take over from it: sotto run --replace", "%v", err)
	case !m.root:
		return ok(name, "none listens on the control socket")
	}
	all, err := intercept.Instances()
	if err != nil {
		return warning(name, "", "cannot list the instances: %v", err)
	}
	return judgeInstances(name, all)
}

// ErrNoSocket means that the configuration has no control socket.
var ErrNoSocket = errors.New("no control socket")

func (m *machine) useSeal(s *status.Seal) {
	m.seal.Cgroups, m.seal.Exclude, m.seal.Prefix4, m.seal.Prefix6 = s.Cgroups, s.Exclude, s.Prefix4, s.Prefix6
	m.seal.LocalResolvers = intercept.LocalRedirect
	if s.LocalResolvers == intercept.LocalKeep.String() {
		m.seal.LocalResolvers = intercept.LocalKeep
	}
}

func describeRunning(name string, s *status.Status) Result {
	switch {
	case s.Stopping:
		return warning(name, "check again when another process has started", "%s, process %d, was stopped and answers for the time of the setting drain", s.Version, s.PID)
	case !s.Ready:
		return warning(name, "wait, and check again; the log of the process shows what it waits for", "%s, process %d, does not answer queries yet", s.Version, s.PID)
	}
	what := "forwards"
	if s.Seal != nil {
		what = "seals " + strings.Join(s.Seal.Cgroups, ", ")
	}
	return ok(name, "%s, process %d, %s", s.Version, s.PID, what)
}

// judgeInstances judges the instances on a machine where no process listens on the control
// socket.
func judgeInstances(name string, all []intercept.State) Result {
	for _, i := range all {
		switch {
		case i.Name != daemon.InstanceName:
		case i.Running:
			return warning(name, fmt.Sprintf("name its socket with --control, or stop it: kill %d", i.PID),
				"process %d has a seal, but listens on another control socket or on none", i.PID)
		default:
			return failed(name, "start it again, or open the seal: sotto down",
				"process %d was killed, and its seal is still closed: queries of %s fail", i.PID, strings.Join(i.Cgroups, ", "))
		}
	}
	return ok(name, "none")
}

// discard is a logger for what the checks report themselves.
func discard(slog.Leveler) *slog.Logger { return slog.New(slog.NewTextHandler(io.Discard, nil)) }
