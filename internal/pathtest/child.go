// SPDX-License-Identifier: Apache-2.0

package pathtest

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os/exec"
	"sync"
	"time"
)

const (
	// stopTime limits the wait for the child to clean up.
	stopTime = 3 * time.Second

	// childTime limits the run time of a child. It is longer than a test takes, unless the
	// child does not run: the user of a sealed cgroup can freeze it there.
	childTime = totalTime + 15*time.Second

	// maxStderr limits what is kept of the child's standard error.
	maxStderr = 1 << 10
)

// Child is a process that waits to test. A nil Child tests nothing. Its methods may be called
// concurrently.
type Child struct {
	cmd    *exec.Cmd
	stdin  io.WriteCloser
	stdout io.ReadCloser

	stderr head

	stop sync.Once
	err  error // of the process; set by stop
}

// head keeps the first bytes that are written to it.
type head []byte

func (h *head) Write(b []byte) (int, error) {
	*h = append(*h, b[:min(len(b), maxStderr-len(*h))]...)
	return len(b), nil
}

// Start starts the child by a command line that calls [Main]. It keeps the privileges that
// this process has now. The caller stops it.
func Start(command []string) (*Child, error) {
	c := &Child{cmd: exec.Command(command[0], command[1:]...)}
	c.cmd.Stderr = &c.stderr
	c.cmd.WaitDelay = stopTime // limits reading what another process writes to standard error
	var err error
	if c.stdin, err = c.cmd.StdinPipe(); err != nil {
		return nil, fmt.Errorf("start path test: %w", err)
	}
	if c.stdout, err = c.cmd.StdoutPipe(); err != nil {
		return nil, fmt.Errorf("start path test: %w", err)
	}
	if err := c.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start path test: %w", err)
	}
	return c, nil
}

// Run makes the child test, calls report for each of its reports, and waits until it has exited.
// It returns early if Stop is called. It must be called at most once.
func (c *Child) Run(cfg Config, report func(Report)) error {
	text, err := json.Marshal(cfg)
	if err != nil {
		return err
	}
	if _, err := c.stdin.Write(append(text, '\n')); err != nil {
		return fmt.Errorf("path test: %w", err)
	}
	defer time.AfterFunc(childTime, c.Stop).Stop()
	for d := json.NewDecoder(c.stdout); ; {
		var r Report
		if err = d.Decode(&r); err != nil {
			break
		}
		report(r)
	}
	if !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, fs.ErrClosed) {
		return fmt.Errorf("path test: read report: %w", err)
	}
	c.Stop()
	return c.err
}

// Stop makes the child clean up and exit, and waits for it. After it, no query is sent any more.
// It is idempotent.
func (c *Child) Stop() {
	if c == nil {
		return
	}
	c.stop.Do(func() {
		_ = c.stdin.Close() // it is a pipe
		kill := time.AfterFunc(stopTime, func() { _ = c.cmd.Process.Kill() })
		if c.err = c.cmd.Wait(); c.err != nil {
			c.err = fmt.Errorf("path test: %w: %s", c.err, c.stderr)
		}
		kill.Stop()
	})
}
