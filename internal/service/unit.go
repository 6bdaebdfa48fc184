// SPDX-License-Identifier: Apache-2.0

package service

import (
	"context"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/coreos/go-systemd/v22/dbus"
)

// JobRestart is the type of the job of a unit that is restarted. The job keeps this type
// until the unit has stopped.
const JobRestart = "restart"

// Unit is the unit of the calling process. It is read over systemd's own socket, which needs
// root and no message bus.
type Unit struct {
	Name string

	c *dbus.Conn
}

// OpenUnit connects to systemd. The caller closes the unit.
func OpenUnit(ctx context.Context) (*Unit, error) {
	c, err := dbus.NewSystemdConnectionContext(ctx)
	if err != nil {
		return nil, fmt.Errorf("connect to systemd: %w", err)
	}
	u := &Unit{c: c}
	if u.Name, err = c.GetUnitNameByPID(ctx, uint32(os.Getpid())); err != nil {
		u.Close()
		return nil, fmt.Errorf("find the unit of this process: %w", err)
	}
	return u, nil
}

// Close closes the connection.
func (u *Unit) Close() { u.c.Close() }

// Job returns the type of the unit's job, such as [JobRestart], or "".
func (u *Unit) Job(ctx context.Context) (string, error) {
	jobs, err := u.c.ListJobsContext(ctx)
	if err != nil {
		return "", fmt.Errorf("list the jobs of systemd: %w", err)
	}
	for _, j := range jobs {
		if j.Unit == u.Name {
			return j.JobType, nil
		}
	}
	return "", nil
}

// Restarts returns how often Restart= has restarted the unit since it was started by a job.
func (u *Unit) Restarts(ctx context.Context) (uint32, error) {
	return property[uint32](ctx, u, "NRestarts")
}

// Has reports whether a process belongs to the unit.
func (u *Unit) Has(ctx context.Context, pid int) bool {
	name, err := u.c.GetUnitNameByPID(ctx, uint32(pid))
	return err == nil && name == u.Name
}

// property reads a property of the unit.
func property[T any](ctx context.Context, u *Unit, name string) (value T, err error) {
	p, err := u.c.GetServicePropertyContext(ctx, u.Name, name)
	if err != nil {
		return value, fmt.Errorf("read the property %s of %s: %w", name, u.Name, err)
	}
	value, ok := p.Value.Value().(T)
	if !ok {
		return value, fmt.Errorf("read the property %s of %s: it has the type %s", name, u.Name, p.Value.Signature())
	}
	return value, nil
}

// pollInterval is the pause between reads of a property that is expected to change.
const pollInterval = 10 * time.Millisecond

// SetMainPID makes pid the main process of the unit, with more states for the service manager,
// and waits until it is. The caller must be the main process, of a unit that is starting or
// running.
func (u *Unit) SetMainPID(ctx context.Context, socket string, pid int, more ...string) error {
	Notify(socket, strings.Join(append([]string{fmt.Sprintf("MAINPID=%d", pid)}, more...), "\n"))
	for {
		got, err := property[uint32](ctx, u, "MainPID")
		if err != nil {
			return err
		}
		if int(got) == pid {
			return nil
		}
		select {
		case <-time.After(pollInterval):
		case <-ctx.Done():
			return fmt.Errorf("make process %d the main process of %s: it is %d: %w", pid, u.Name, got, ctx.Err())
		}
	}
}

// Command returns the command line of ExecStart=.
func (u *Unit) Command(ctx context.Context) ([]string, error) {
	all, err := property[[][]any](ctx, u, "ExecStart")
	if err != nil {
		return nil, err
	}
	if len(all) != 1 || len(all[0]) < 2 {
		return nil, fmt.Errorf("%s has %d commands ExecStart=, want one", u.Name, len(all))
	}
	path, isPath := all[0][0].(string)
	args, isArgs := all[0][1].([]string)
	if !isPath || !isArgs || len(args) == 0 {
		return nil, fmt.Errorf("read the command of %s: it has another type", u.Name)
	}
	return append([]string{path}, args[1:]...), nil
}
