// SPDX-License-Identifier: Apache-2.0

package netlab

import (
	"bytes"
	"context"
	"errors"
	"os/exec"
	"syscall"
)

// Cmd is an exec.Cmd whose process starts inside a host, and inside a cgroup
// if one was given. Start, Run, Output and CombinedOutput are its own; all the
// rest is exec.Cmd's.
type Cmd struct {
	*exec.Cmd

	host *Host
}

// Command prepares a process inside the host; group may be nil. Cancelling ctx
// kills it.
//
// It enters the network namespace only: its /sys, its resolv.conf and its
// mounts are the machine's, so cgroupfs and bpffs stay in sight.
func (h *Host) Command(ctx context.Context, group *Cgroup, name string, args ...string) *Cmd {
	c := &Cmd{Cmd: exec.CommandContext(ctx, name, args...), host: h}
	if group != nil {
		c.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: group.Fd()}
	}
	return c
}

// Start starts the process on a thread inside the host; a process inherits the
// namespace of the thread that made it.
func (c *Cmd) Start() error { return c.host.Do(c.Cmd.Start) }

// Run starts the process and waits for it.
func (c *Cmd) Run() error {
	if err := c.Start(); err != nil {
		return err
	}
	return c.Wait()
}

// Output runs the process and returns its standard output. As with exec.Cmd,
// standard error is in the error when it was not sent elsewhere.
func (c *Cmd) Output() ([]byte, error) {
	var stdout, stderr bytes.Buffer
	c.Stdout = &stdout
	own := c.Stderr == nil
	if own {
		c.Stderr = &stderr
	}
	err := c.Run()
	var exit *exec.ExitError
	if own && errors.As(err, &exit) {
		exit.Stderr = stderr.Bytes()
	}
	return stdout.Bytes(), err
}

// CombinedOutput runs the process and returns both its outputs.
func (c *Cmd) CombinedOutput() ([]byte, error) {
	var both bytes.Buffer
	c.Stdout, c.Stderr = &both, &both
	err := c.Run()
	return both.Bytes(), err
}
