// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"os/signal"
	"runtime/debug"
	"slices"
	"sync"

	"sotto/intercept"
	"sotto/intercept/cgroup"
	"sotto/internal/config"
	"sotto/internal/privdrop"
	"sotto/internal/probe"
	"sotto/internal/service"
	"sotto/internal/takeover"
)

// InstanceName is the name of the instance of [Run]. There is one per machine.
const InstanceName = "sotto"

// staysClosed ends errors and log messages about a seal that no process serves.
const staysClosed = "the seal stays closed: 'sotto run' takes it over, 'sotto down' removes it"

// Run seals the host, or the cgroups that the configuration names, until SIGINT or SIGTERM
// stops it, or another process takes over. With when-replaced = "wait" it then waits for the
// signal.
func Run(ctx context.Context, o Options, mode ReplaceMode) error {
	hup := catchReloads()
	defer signal.Stop(hup)
	var p probe.Server
	wait, err := run(ctx, o, mode, hup, &p)
	if err != nil && mode != ReplaceNone && o.keepsRunning(ctx, err) {
		return p.Close()
	}
	if wait != nil {
		o.freeAndWait(wait)
	}
	return errors.Join(err, p.Close())
}

// freeAndWait waits for a stop, which may take long, and frees memory before: the cache, and
// maps of the kernel, which the garbage collector unmaps.
func (o Options) freeAndWait(stop <-chan struct{}) {
	debug.FreeOSMemory()
	service.KeepAlive(o.NotifySocket, o.Watchdog, stop)
}

// run is [Run] except that it returns the channel to wait for after a takeover, and does not
// close the probe. It is a function of its own so that nothing refers to the seal during the
// wait.
func run(ctx context.Context, o Options, mode ReplaceMode, hup <-chan os.Signal, probes *probe.Server) (wait <-chan struct{}, err error) {
	s, p, err := o.Load()
	if err != nil {
		return nil, err
	}
	cfg, err := InstanceConfig(s, p)
	if err != nil {
		return nil, err
	}
	d, err := newDaemon(o, p, fixedSealSettings)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, d.outputs.close()) }()
	if d.probe = probes; p.ProbeSocket != "" {
		starting := func() (bool, string) { return false, textStarting }
		if err := probes.Serve(ctx, p.ProbeSocket, starting); err != nil {
			return nil, err
		}
	}
	warnEscapes(cfg, d.log)
	WarnUncovered(cfg, d.log)
	background := ctx // lasts longer than a stop, for pending replies
	ctx, stops := catchStops(ctx, d.log)
	opened, err := d.open(ctx, background, cfg, mode, stops)
	if errors.Is(err, errNotTakenOver) {
		d.log.Info("stopped before it took over")
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return d.runSeal(ctx, opened, stops, hup, "cgroups", cfg.Cgroups, "upstreams", s.Upstream)
}

// runSeal attaches the hooks of an opened seal and answers queries until ctx ends. Then it
// releases the seal. attrs are logged when the hooks are attached.
func (d *daemon) runSeal(ctx context.Context, opened openedSeal, stops *stopper, hup <-chan os.Signal, attrs ...any) (wait <-chan struct{}, err error) {
	seal, from := opened.seal, opened.from
	d.resolver, seal.keepHooks = seal.resolver, sync.OnceValue(d.staysClosed)
	d.loadCache()
	if err := d.listen(ctx, true); err != nil {
		return nil, errors.Join(err, opened.close())
	}
	defer d.close()
	d.handover = &handover{
		seal: seal, daemon: d, terms: opened.terms, stops: stops, log: d.log,
		lineage: takeover.Lineage{Own: opened.terms.Identity, Replaced: opened.replaced},
	}
	if from != nil {
		seal.sockets = from.sockets
		seal.isShared = func() bool { return !stops.ownsSeal() && !handedOver(ctx) }
	}
	d.probe.Set(d.readyState)
	d.pathTest, d.probeHost = d.startPathTest(opened), seal.dialSelf
	defer d.pathTest.stop()
	seal.beforeDetach = d.pathTest.stop
	attached := false
	err = seal.run(ctx, func(ctx context.Context) error {
		if from != nil && ctx.Err() != nil {
			return nil
		}
		if err := seal.inst.Attach(); err != nil {
			return err
		}
		attached = true
		d.dropPrivileges(d.log, privdrop.Limits{Keep: RunCapabilities, Deny: deniedCalls(seal.inst)})
		d.log.Info("sealed", attrs...)
		if from == nil {
			service.Notify(d.NotifySocket, service.Ready)
			return d.run(ctx, hup)
		}
		if err := from.take(ctx, stops, seal.conns, d.log); err != nil {
			return err
		}
		service.Notify(d.NotifySocket, service.TookOver())
		return d.run(ctx, hup)
	})
	if handedOver(ctx) {
		return d.replaced(seal, err)
	}
	if err = d.finish(ctx, seal, err, attached); !attached {
		err = errors.Join(err, from.close()) // the predecessor resumes
	}
	return nil, err
}

// finish releases the seal when run has ended and no other process has taken over.
func (d *daemon) finish(ctx context.Context, seal *seal, err error, attached bool) error {
	if cause := context.Cause(ctx); err == nil && !stopped(ctx) && !errors.Is(cause, errNotTakenOver) {
		err = cause
	}
	switch {
	case err != nil && !attached:
		return errors.Join(err, seal.Close())
	case err != nil && !d.handover.stops.ownsSeal():
		return errors.Join(err, seal.abandon()) // another process owns the seal, or resumes
	case err != nil:
		return errors.Join(fmt.Errorf("%w; %s", err, staysClosed), seal.abandon())
	case !stopped(ctx):
		d.log.Info("stopped before it took over; the running Sotto continues")
		return seal.abandon()
	}
	d.saveCache()
	if seal.keepHooks() {
		d.log.Info("stopped; " + staysClosed)
		return seal.abandon()
	}
	return seal.Close()
}

// replaced releases the seal after another process has taken over. With when-replaced =
// "wait" it returns the channel to wait for.
func (d *daemon) replaced(seal *seal, err error) (stop <-chan struct{}, _ error) {
	d.probe.Set(func() (bool, string) { return true, "replaced: another Sotto answers queries" }) // it refers to no daemon
	err = errors.Join(err, d.handover.successor.Done(), seal.abandon())
	requested := d.handover.stops.requested
	if d.current().WhenReplaced == config.ReplacedExit || isClosed(requested) {
		d.log.Info("another Sotto has taken over")
		return nil, err
	}
	if err != nil {
		d.log.Error("cannot release everything after the takeover", "err", err)
	}
	d.log.Info("another Sotto has taken over; waiting to be stopped (when-replaced)")
	return requested, nil
}

// warnEscapes logs the cgroups that a user other than root can move processes out of, or,
// if they are excluded, into: such a user decides what is sealed.
func warnEscapes(cfg intercept.Config, log *slog.Logger) {
	for what, dirs := range map[string][]string{"out of a sealed cgroup": cfg.Cgroups, "into an excluded cgroup": cfg.Exclude} {
		for _, dir := range dirs {
			why, err := cgroup.Leavable(dir)
			switch {
			case err != nil:
				log.Warn("cannot check who may move processes "+what, "cgroup", dir, "err", err)
			case why != "":
				log.Warn("a user other than root can move processes "+what+": name a cgroup whose parent belongs to root", "cgroup", dir, "reason", why)
			}
		}
	}
}

// fixedSealSettings returns the settings of the instance, which a reload cannot change.
func fixedSealSettings(p config.Plan) []setting {
	return []setting{{"cgroups", p.Cgroups}, {"exclude", p.Exclude}, {"ports", p.Ports}, {"prefix4", p.Prefix4}, {"prefix6", p.Prefix6},
		{"guard", p.Guard}, {"attribution", p.Attribution},
		{"kernel-answers", p.KernelAnswers.On}, {"kernel-answers-entries", p.KernelAnswers.Entries},
		{"local-resolvers", p.Local.Resolvers}, {"on-exit", p.OnExit}, {"probe-socket", p.ProbeSocket}}
}

// InstanceConfig returns the configuration of the instance of [Run]. It finds the cgroups
// that the plan names, or the root cgroup if it names none. The plan is one of s.
func InstanceConfig(s config.Settings, p config.Plan) (cfg intercept.Config, err error) {
	cfg.Name = InstanceName
	cfg.Ports, cfg.Prefix4, cfg.Prefix6, cfg.Guard = p.Ports, p.Prefix4, p.Prefix6, p.Guard
	cfg.Attribution = p.Attribution
	if p.OnExit == config.ExitOpen {
		cfg.OpenAfter = config.OpenAfter
	}
	root, err := cgroup.Root()
	if err != nil {
		return cfg, err
	}
	if len(p.Cgroups) == 0 {
		cfg.Cgroups = []string{root}
	}
	for _, list := range []struct {
		key  string
		from []string
		to   *[]string
	}{{"cgroups", p.Cgroups, &cfg.Cgroups}, {"exclude", p.Exclude, &cfg.Exclude}} {
		for i, path := range list.from {
			dir, err := cgroup.Find(path)
			if list.key == "exclude" && errors.Is(err, fs.ErrNotExist) {
				err = nil // its service has not started yet: it is excluded when it does
			}
			if err != nil {
				return cfg, s.At(fmt.Sprintf("%s[%d]", list.key, i), err)
			}
			*list.to = append(*list.to, dir)
		}
	}
	cfg.GuardHost = slices.Contains(cfg.Cgroups, root)
	cfg.LocalResolvers = p.Local.Mode(cfg.GuardHost)
	return cfg, nil
}
