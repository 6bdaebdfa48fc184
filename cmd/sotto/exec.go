// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"syscall"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"sotto/intercept/cgroup"
	"sotto/internal/config"
	"sotto/internal/daemon"
	"sotto/internal/nssockets"
)

// Exit statuses of a shell for a command that it cannot start.
const (
	exitCannotRun = 126
	exitNotFound  = 127
)

func (e *env) execCommand() *cobra.Command {
	var o options
	var user string
	c := &cobra.Command{
		Use:   "exec [flags] -- CMD ARG…",
		Short: "Seal one command",
		Long: `  sudo sotto exec -- dig @8.8.8.8 example.com
  sudo sotto exec --user www-data -- curl https://example.com/
  sudo sotto exec --upstream 192.0.2.1#dns.example -- bash

Run CMD in a new sealed cgroup, and exit with its status. The seal also applies to
everything that CMD starts, and ends with CMD: processes that are left in the cgroup are
killed. CMD uses Sotto's standard input, output, error and terminal.

The cgroup is created below Sotto's own. If users other than root can manage that cgroup
(such as a systemd scope below user@1000.service) they could move CMD out of the seal, so
the new cgroup is then created below the nearest ancestor that only root can manage. Resource
limits of the cgroups in between do not apply to CMD.

Queries to a resolver on this machine (127.0.0.53) are sealed too, except those for local
names, which that resolver answers; see --local-resolvers. The sockets of nscd and of
systemd-resolved below /run are hidden from CMD, which runs in a mount namespace of its own
for this purpose.

With --user, CMD runs as USER with all groups of that user. Of the caller's environment it
keeps only TERM, COLORTERM, NO_COLOR, LANG, LANGUAGE, LC_* and TZ. HOME, USER, LOGNAME and
SHELL are those of USER, and PATH, which is also used to find CMD, is
` + userPath + `.
Use env(1) for other variables: sotto exec --user USER -- env NAME=VALUE CMD. Only the
standard files stay open, and if USER may not enter the working directory, CMD starts in /.
Without --user, CMD has the environment and the open files of the caller.

Exit status:
  that of CMD  CMD exited
  128 + N      signal N ended CMD, or arrived before CMD started
  127          CMD was not found
  126          CMD could not be run
  1            Sotto failed
  2            the command line of Sotto is wrong`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) == 0 {
				return config.Usagef("no command: use sotto exec -- CMD ARG…")
			}
			return nil
		},
		RunE: func(c *cobra.Command, args []string) error {
			s := config.Default()
			s.LogLevel = "error" // the command uses stderr too
			o.override(c, &s)
			p, err := s.Plan(config.Options{Read: config.ReadFile})
			if err != nil {
				return err
			}
			return e.exec(c.Context(), p, user, args)
		},
	}
	c.Flags().SetInterspersed(false)
	c.Flags().StringVar(&user, "user", "", "run CMD as this `user` (name or ID), with the groups of that user and a minimal environment")
	o.guardFlag(c.Flags())
	o.localFlag(c.Flags())
	o.upstreamFlags(c.Flags())
	return c
}

// exec runs args sealed, and returns the exit status as an [exitError].
func (e *env) exec(ctx context.Context, p config.Plan, user string, args []string) (err error) {
	if err := errors.Join(needRoot("exec"), e.seeCgroups()); err != nil {
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
	sigs := catchSignals() // until CMD has exited
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
	return daemon.Exec(ctx, e.daemonOptions(nil), p, cg, func(drop func()) error {
		return e.runInCgroup(cg, cmd, sigs, drop)
	})
}

// runInCgroup starts cmd in cg, drops privileges and waits for it. If a signal has asked to exit
// before, it does not start cmd, and returns the status of a command that the signal has ended.
func (e *env) runInCgroup(cg *cgroup.Created, cmd *exec.Cmd, sigs *signals, drop func()) error {
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.UseCgroupFD = true
	cmd.SysProcAttr.CgroupFD = cg.FD()
	var err error
	var early unix.Signal
	hidden := nssockets.Start(func() {
		if early = sigs.early(); early == 0 {
			cmd, err = startAs(cmd)
		}
	})
	switch {
	case early != 0:
		return exitError(128 + int(early))
	case err != nil:
		return e.cannotStart(cmd.Args[0], err)
	case hidden != nil:
		fmt.Fprintf(e.stderr, "sotto: warning: %v: names that the C library looks up by these sockets are not sealed\n", hidden)
	}
	drop() // after the start, because the command would inherit it
	sigs.forward(cmd.Process)
	err = cmd.Wait()
	var failed *exec.ExitError
	if err != nil && !errors.As(err, &failed) {
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

// cannotStart prints why a command cannot start, and returns the status that a shell gives
// for it.
func (e *env) cannotStart(name string, err error) error {
	fmt.Fprintf(e.stderr, "sotto: run %s: %v\n", name, err)
	if errors.Is(err, exec.ErrNotFound) || errors.Is(err, fs.ErrNotExist) {
		return exitError(exitNotFound)
	}
	return exitError(exitCannotRun)
}
