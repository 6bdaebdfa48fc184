// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"syscall"

	"github.com/spf13/cobra"

	"sotto/intercept"
	"sotto/intercept/cgroup"
)

// What a shell says of a command that it could not start.
const (
	exitCannotRun = 126
	exitNotFound  = 127
)

func (e *env) execVerb() *cobra.Command {
	var o options
	var user string
	c := &cobra.Command{
		Use:   "exec [flags] -- CMD ARG…",
		Short: "seal one command",
		Long: `Run CMD in a cgroup of its own whose DNS is sealed, and exit with its status. The
seal holds for everything that CMD starts, and ends with CMD: what still runs in
its cgroup then is killed. Standard input, output, error and the terminal are CMD's.

The cgroup is below Sotto's own, or below the nearest one above that if users other
than root can manage Sotto's own (a systemd scope below user@1000.service, say): they
could move CMD out of the seal. Limits of the cgroups in between do not hold for CMD.

With --user, CMD has the user and all groups of that user, and of the caller's
environment only TERM, COLORTERM, NO_COLOR, LANG, LANGUAGE, LC_* and TZ; HOME, USER,
LOGNAME and SHELL are the user's, and PATH, in which CMD is looked up, is
` + userPath + `.
More is given with env(1): sotto exec --user USER -- env NAME=VALUE CMD. Open files other
than the standard ones are closed, and where the user may not enter the working directory
CMD starts in /. Without --user environment and open files are the caller's.`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) == 0 {
				return usagef("no command to seal: sotto exec -- CMD ARG…")
			}
			return nil
		},
		RunE: func(c *cobra.Command, args []string) error {
			s := defaultSettings()
			s.LogLevel = "error" // stderr is the command's
			o.override(c, &s)
			p, err := s.plan(planFor{read: readFile})
			if err != nil {
				return err
			}
			return e.exec(c.Context(), p, user, args)
		},
	}
	c.Flags().SetInterspersed(false)
	c.Flags().StringVar(&user, "user", "", "run CMD as this `user` (name or number), with its groups and a minimal environment")
	o.guardFlag(c.Flags())
	o.upstreamFlags(c.Flags())
	return c
}

// exec runs args sealed, and returns its status as an [exitError].
func (e *env) exec(ctx context.Context, p plan, user string, args []string) (err error) {
	log := e.logger(p.level)
	if err := needRoot("exec"); err != nil {
		return err
	}
	cmd, err := commandAs(user, args)
	if err != nil {
		return err
	}
	if cmd.Err != nil {
		return e.cannotStart(args[0], cmd.Err)
	}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = e.stdin, e.stdout, e.stderr
	// From here to the end of CMD signals are its own business.
	sigs := catchSignals()
	defer sigs.stop()
	own, err := cgroup.Own()
	if err != nil {
		return err
	}
	cg, err := cgroup.CreateForCommand(own, fmt.Sprintf("sotto-exec-%d", os.Getpid()))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, cg.Close()) }()
	l, err := openSeal(ctx, p, intercept.Config{Ephemeral: true, Cgroups: []string{cg.Path()}, Guard: p.guard}, log)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, l.Close()) }()
	return e.execSealed(ctx, l, cg, cmd, sigs, log)
}

// execSealed serves while cmd runs in cg. Whatever cmd left behind is ended
// before the caller takes the seal away: it must not go on unsealed.
func (e *env) execSealed(ctx context.Context, l *seal, cg *cgroup.Created, cmd *exec.Cmd, sigs *signals, log *slog.Logger) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	attached := make(chan struct{})
	served := make(chan error, 1)
	go func() {
		served <- l.run(ctx, func(context.Context) error {
			if err := l.inst.Attach(); err != nil {
				return err
			}
			close(attached)
			return nil
		})
	}()
	select {
	case <-attached:
	case err := <-served:
		return err
	}
	status := e.runCommand(cg, cmd, sigs, log, deniedTo(l.inst))
	if err := cg.Kill(); err != nil {
		log.Error("end what the command left behind", "err", err)
	}
	cancel()
	if err := <-served; err != nil {
		log.Error("answering queries ended early", "err", err)
	}
	return status
}

// runCommand starts cmd in cg and waits for it. deny are system calls that this process
// has no use for meanwhile.
func (e *env) runCommand(cg *cgroup.Created, cmd *exec.Cmd, sigs *signals, log *slog.Logger, deny []uint32) error {
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.UseCgroupFD = true
	cmd.SysProcAttr.CgroupFD = cg.FD()
	cmd, err := startAs(cmd)
	if err != nil {
		return e.cannotStart(cmd.Args[0], err)
	}
	e.confine(log, keepExec, deny...) // not before: it would be the command's lot
	sigs.passTo(cmd.Process)
	err = cmd.Wait()
	var ended *exec.ExitError
	if err != nil && !errors.As(err, &ended) {
		return fmt.Errorf("run %s: %w", cmd.Args[0], err)
	}
	ws := cmd.ProcessState.Sys().(syscall.WaitStatus)
	switch {
	case ws.Signaled():
		return exitError(128 + int(ws.Signal()))
	case ws.ExitStatus() != 0:
		return exitError(ws.ExitStatus())
	}
	return nil
}

// cannotStart says why a command did not start, and returns the status that a
// shell gives for it.
func (e *env) cannotStart(name string, err error) error {
	fmt.Fprintf(e.stderr, "sotto: run %s: %v\n", name, err)
	if errors.Is(err, exec.ErrNotFound) || errors.Is(err, fs.ErrNotExist) {
		return exitError(exitNotFound)
	}
	return exitError(exitCannotRun)
}
