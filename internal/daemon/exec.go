// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"context"
	"errors"

	"sotto/intercept"
	"sotto/intercept/cgroup"
	"sotto/internal/config"
	"sotto/internal/privdrop"
)

// Exec seals the cgroup cg while command runs. It calls command when queries are answered,
// with a function that drops the privileges that are not needed any more; command calls it
// after it has started the process, which would inherit the loss. When command returns, Exec
// kills the processes that are left in cg before it removes the seal, so that none continues
// unsealed. It returns the error of command, joined with those of removing the seal.
func Exec(ctx context.Context, o Options, p config.Plan, cg *cgroup.Created, command func(drop func()) error) (err error) {
	resumeGC := pauseGC()
	defer resumeGC()
	log := o.Logger(p.Level)
	seal, err := openSeal(ctx, p, intercept.Config{Ephemeral: true, Cgroups: []string{cg.Path()}, Guard: p.Guard, LocalResolvers: p.Local.Mode(false)}, nil, log)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, seal.Close()) }()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	attached := make(chan struct{})
	served := make(chan error, 1)
	go func() {
		served <- seal.run(ctx, func(context.Context) error {
			if err := seal.inst.Attach(); err != nil {
				return err
			}
			close(attached)
			return nil
		})
	}()
	select {
	case <-attached:
		resumeGC()
		go p.ReadRoots()
	case err := <-served:
		return err
	}
	err = command(func() {
		o.dropPrivileges(log, privdrop.Limits{Keep: ExecCapabilities, Deny: deniedCalls(seal.inst), KeepBounding: true})
	})
	if err := cg.Kill(); err != nil {
		log.Error("cannot kill the processes that the command left behind", "err", err)
	}
	cancel()
	if err := <-served; err != nil {
		log.Error("answering queries failed", "err", err)
	}
	return err
}
