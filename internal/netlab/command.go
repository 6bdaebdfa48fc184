// SPDX-License-Identifier: Apache-2.0

package netlab

import (
	"bytes"
	"context"
	"errors"
	"os/exec"
	"syscall"
)

// Cmd is an exec.Cmd whose process starts in the network namespace of a host and, if
// given, in a cgroup. It redefines Start, Run, Output and CombinedOutput.
type Cmd struct {
	*exec.Cmd

	host *Host
}

// Command returns a Cmd for a process in the host; group may be nil. Cancelling ctx
// kills the process.
//
// The process enters only the network namespace. It shares the machine's mounts, with
// /sys and resolv.conf, so that it can access cgroupfs and bpffs.
func (h *Host) Command(ctx context.Context, group *Cgroup, name string, args ...string) *Cmd {
	c := &Cmd{Cmd: exec.CommandContext(ctx, name, args...), host: h}
	if group != nil {
		c.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: group.Fd()}
	}
	return c
}

// Start starts the process from a thread in the host's namespace, which the process
// inherits.
func (c *Cmd) Start() error { return c.host.Do(c.Cmd.Start) }

// Run starts the process and waits for it.
func (c *Cmd) Run() error {
	if err := c.Start(); err != nil {
		return err
	}
	return c.Wait()
}

// Output runs the process and returns its standard output. As with exec.Cmd, the error
// contains standard error if Stderr is nil.
func (c *Cmd) Output() ([]byte, error) {
	var stdout, stderr bytes.Buffer
	c.Stdout = &stdout
	captureStderr := c.Stderr == nil
	if captureStderr {
		c.Stderr = &stderr
	}
	err := c.Run()
	var exit *exec.ExitError
	if captureStderr && errors.As(err, &exit) {
		exit.Stderr = stderr.Bytes()
	}
	return stdout.Bytes(), err
}

// CombinedOutput runs the process and returns its standard output and standard error.
func (c *Cmd) CombinedOutput() ([]byte, error) {
	var both bytes.Buffer
	c.Stdout, c.Stderr = &both, &both
	err := c.Run()
	return both.Bytes(), err
}
