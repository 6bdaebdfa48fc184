// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"context"
	"log/slog"

	"sotto/internal/pathtest"
)

// pathTest tests once whether queries of the sealed cgroups reach this process, and logs what
// blocks them. A nil pathTest tests nothing.
type pathTest struct {
	child *pathtest.Child
	cfg   pathtest.Config
	log   *slog.Logger
	seen  map[[2]string]bool // blocks and fixes that were logged
}

// startPathTest starts the child process, which keeps the privileges that this process drops.
// It returns nil if that fails, because the seal does not depend on it.
func (d *daemon) startPathTest(opened openedSeal) *pathTest {
	if len(d.PathTest) == 0 {
		return nil
	}
	child, err := pathtest.Start(d.PathTest)
	if err != nil {
		d.log.Debug("cannot test whether queries reach Sotto", "err", err)
		return nil
	}
	inst := opened.seal.inst
	t := &pathTest{child: child, log: d.log, seen: make(map[[2]string]bool)}
	t.cfg = pathtest.Config{Cgroups: opened.cfg.Cgroups, Exclude: opened.cfg.Exclude, Port: inst.Port(), Link: inst.HostLink()}
	v4, v6 := inst.Prefixes()
	t.cfg.Prefixes = append(t.cfg.Prefixes, v4, v6)
	return t
}

// run tests. It returns early if ctx ends.
func (t *pathTest) run(ctx context.Context) {
	if t == nil {
		return
	}
	defer context.AfterFunc(ctx, t.stop)()
	if err := t.child.Run(t.cfg, func(r pathtest.Report) { t.report(ctx, r) }); err != nil && ctx.Err() == nil {
		t.log.Debug("the path test failed", "err", err)
	}
}

// report logs each cause once: it may concern many cgroups and containers.
func (t *pathTest) report(ctx context.Context, r pathtest.Report) {
	if r.Note != "" {
		t.log.Debug("path test", "note", r.Note)
		return
	}
	what, fix := r.Texts()
	level := slog.LevelWarn
	if cause := [2]string{what, fix}; t.seen[cause] {
		level = slog.LevelDebug
	} else {
		t.seen[cause] = true
	}
	attrs := []any{"cgroup", r.Cgroup}
	if r.Netns != "" {
		attrs = append(attrs, "netns", r.Netns)
	}
	attrs = append(attrs, "transport", r.Transport, "err", r.Err, "block", what)
	if fix != "" {
		attrs = append(attrs, "fix", fix)
	}
	t.log.Log(ctx, level, "queries of a sealed cgroup do not reach Sotto: they are blocked", attrs...)
}

// stop ends the test. After it, no query is sent any more.
func (t *pathTest) stop() {
	if t != nil {
		t.child.Stop()
	}
}
