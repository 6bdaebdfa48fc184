// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"sotto/internal/config"
	"sotto/internal/control"
	"sotto/internal/daemon"
	"sotto/internal/service"
	"sotto/internal/status"
)

const (
	// serviceTime limits the conversation with the service manager and the running Sotto.
	serviceTime = 20 * time.Second

	// bridgeTime is longer than a takeover takes, and shorter than TimeoutStopSec= (90 s).
	bridgeTime = 75 * time.Second

	// stopTime is longer than a stop takes.
	stopTime = time.Minute

	// pollTime is the pause between looks at a process that is expected to exit.
	pollTime = 50 * time.Millisecond
)

// serviceStopCommand is called by the unit sotto.service. See package service.
func (e *env) serviceStopCommand() *cobra.Command {
	var o options
	after := false
	c := &cobra.Command{
		Use:    "service-stop",
		Short:  "Keep queries answered while systemd restarts the unit; called by sotto.service",
		Hidden: true,
		Args:   cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			ctx, cancel := context.WithTimeout(c.Context(), serviceTime)
			defer cancel()
			unit, err := service.OpenUnit(ctx)
			if err != nil {
				return fmt.Errorf("cannot find out whether the unit is restarted, so Sotto is stopped: %w", err)
			}
			defer unit.Close()
			job, err := unit.Job(ctx)
			if err != nil {
				return err
			}
			if after {
				return e.stopBridge(ctx, unit, job)
			}
			if main, err := strconv.Atoi(e.getenv("MAINPID")); err == nil && job == service.JobRestart {
				return e.bridge(ctx, c, &o, unit, main)
			}
			return nil
		},
	}
	c.Flags().BoolVar(&after, "after", false, "stop the bridge if the unit is not started again (ExecStopPost=)")
	o.remoteFlags(c.Flags())
	return c
}

// bridge starts the new version before systemd stops the process main, and waits until it has
// taken over. systemd then starts the new version as the main process, which takes over again.
func (e *env) bridge(ctx context.Context, c *cobra.Command, o *options, unit *service.Unit, main int) error {
	log := e.logger(slog.LevelInfo)
	if err := e.canBeReplaced(ctx, c, o, main); err != nil {
		log.Info("restart without a takeover", "reason", err)
		return nil
	}
	line, err := unit.Command(ctx)
	if err != nil {
		return err
	}
	if !slices.ContainsFunc(line, func(arg string) bool { return strings.HasPrefix(arg, "--replace") }) {
		log.Info("restart without a takeover", "reason", "ExecStart= lacks --replace")
		return nil
	}
	cmd := exec.Command(line[0], line[1:]...)
	cmd.Stdout, cmd.Stderr = e.stdout, e.stderr
	cmd.Env = slices.DeleteFunc(os.Environ(), func(v string) bool {
		name, _, _ := strings.Cut(v, "=")
		return slices.Contains(managerVariables, name)
	})
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start the bridge: %w", err)
	}
	exited := make(chan error, 1)
	go func() { exited <- cmd.Wait() }()
	limit := time.After(bridgeTime)
	for running(main) {
		select {
		case err := <-exited:
			return fmt.Errorf("the new process cannot take over (%w); until one can, the seal stays closed", err)
		case <-limit:
			return errors.Join(fmt.Errorf("the new process did not take over within %s", bridgeTime), cmd.Process.Kill())
		case <-time.After(pollTime):
		}
	}
	return nil
}

// managerVariables are set by the service manager for one process.
var managerVariables = []string{"NOTIFY_SOCKET", "WATCHDOG_PID", "WATCHDOG_USEC", "MAINPID"}

// running reports whether a process runs: not if it is a zombie.
func running(pid int) bool {
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return false
	}
	defer unix.Close(fd)
	n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0)
	return err == nil && n == 0
}

// canBeReplaced returns an error if main is not a Sotto that answers, or if a new process with
// the configuration as it is now could not take over from it.
func (e *env) canBeReplaced(ctx context.Context, c *cobra.Command, o *options, main int) error {
	path, _, err := o.controlPath(c)
	if err != nil {
		return err
	}
	var running status.Status
	body, err := control.Request(ctx, path, http.MethodGet, "/v1/status", nil)
	if err != nil {
		return err
	}
	if err := errors.Join(json.NewDecoder(body).Decode(&running), body.Close()); err != nil {
		return fmt.Errorf("read the status of the running Sotto: %w", err)
	}
	if running.PID != main || running.Seal == nil || !running.Ready {
		return fmt.Errorf("the Sotto on %s (process %d) is not process %d, or does not answer queries yet", path, running.PID, main)
	}
	s, p, err := e.runLoader(c, o)()
	if err != nil {
		return err
	}
	if p.WhenReplaced == config.ReplacedWait {
		return fmt.Errorf("when-replaced is %q", p.WhenReplaced)
	}
	cfg, err := daemon.InstanceConfig(s, p)
	if err != nil {
		return err
	}
	return daemon.CheckTakeover(cfg, *running.Seal)
}

// stopBridge stops a bridge if a stop has replaced the restart.
func (e *env) stopBridge(ctx context.Context, unit *service.Unit, job string) error {
	pid, found := daemon.RunningProcess()
	if job == service.JobRestart || e.getenv("SERVICE_RESULT") != "success" || !found || !unit.Has(ctx, pid) {
		return nil
	}
	if err := unix.Kill(pid, unix.SIGTERM); err != nil {
		return nil // it has exited
	}
	for end := time.Now().Add(stopTime); running(pid); time.Sleep(pollTime) {
		if time.Now().After(end) {
			return fmt.Errorf("process %d did not stop within %s", pid, stopTime)
		}
	}
	return nil
}
