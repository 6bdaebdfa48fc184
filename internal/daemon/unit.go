// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"context"
	"log/slog"
	"time"

	"sotto/intercept"
	"sotto/internal/config"
	"sotto/internal/service"
	"sotto/internal/status"
	"sotto/internal/takeover"
)

// staysClosed reports whether a clean stop leaves the seal closed: by on-exit, or because the
// service manager restarts the unit and no process could take over.
func (d *daemon) staysClosed() bool {
	if d.current().OnExit == config.ExitClosed {
		return true
	}
	return d.current().OnExit == config.ExitStrict && d.restarting() && d.canBeAdopted()
}

// canBeAdopted reports whether the next process can adopt the closed seal: with other prefixes
// it could not start. If it cannot start at all, the seal should stay closed.
func (d *daemon) canBeAdopted() bool {
	s, p, err := d.Load()
	if err != nil {
		return true
	}
	cfg, err := InstanceConfig(s, p)
	if err != nil {
		return true
	}
	return termsOfConfig(cfg).Check(d.handover.terms) == nil
}

// termsOfConfig returns what two processes must agree on.
func termsOfConfig(cfg intercept.Config) takeover.Terms {
	return takeover.Terms{Prefix4: cfg.Prefix4.String(), Prefix6: cfg.Prefix6.String(), Cgroups: cfg.Cgroups, Version: takeover.Version}
}

// restarting reports whether the service manager restarts the unit of this process.
func (d *daemon) restarting() bool {
	if d.NotifySocket == "" {
		return false
	}
	ctx, cancel := context.WithTimeout(context.Background(), mainProcessTime)
	defer cancel()
	unit, err := service.OpenUnit(ctx)
	if err != nil {
		return false // not systemd
	}
	defer unit.Close()
	job, err := unit.Job(ctx)
	return err == nil && job == service.JobRestart
}

// mainProcessTime limits the conversation with the service manager.
const mainProcessTime = 10 * time.Second

// keepsRunning is called when this process could not take over from a running one in the same
// unit. If the service manager has restarted this process before, it makes the running one
// the main process of the unit again, and reports whether it has: a failure at the first
// attempt is for 'systemctl restart' to report.
func (o Options) keepsRunning(ctx context.Context, failure error) bool {
	if o.NotifySocket == "" {
		return false
	}
	ctx, cancel := context.WithTimeout(ctx, mainProcessTime)
	defer cancel()
	unit, err := service.OpenUnit(ctx)
	if err != nil {
		return false // not systemd
	}
	defer unit.Close()
	log := o.Logger(slog.LevelInfo)
	n, err := unit.Restarts(ctx)
	pid, found := RunningProcess()
	if err != nil || n == 0 || !found || !unit.Has(ctx, pid) {
		return false
	}
	err = unit.SetMainPID(ctx, o.NotifySocket, pid, service.Ready, "STATUS=The new process cannot take over: "+failure.Error())
	if err != nil {
		log.Error("cannot make the running Sotto the main process of the unit again", "process", pid, "err", err)
		return false
	}
	log.Error("cannot take over: the running Sotto continues; fix it and restart the unit", "err", failure, "process", pid)
	return true
}

// RunningProcess returns the process that has the instance of [Run], if one is running.
func RunningProcess() (pid int, found bool) {
	all, err := intercept.Instances()
	if err != nil {
		return 0, false
	}
	for _, i := range all {
		if i.Name == InstanceName && i.Running {
			return i.PID, true
		}
	}
	return 0, false
}

// CheckTakeover returns an error if a process with the configuration cfg cannot take over from
// one with the given seal.
func CheckTakeover(cfg intercept.Config, running status.Seal) error {
	return termsOfConfig(cfg).Check(takeover.Terms{Prefix4: running.Prefix4.String(), Prefix6: running.Prefix6.String(), Cgroups: running.Cgroups})
}
