// SPDX-License-Identifier: Apache-2.0

package intercept

import (
	"errors"
	"io/fs"
	"net/netip"
	"os"

	"sotto/intercept/cgroup"
	"sotto/intercept/registry"
)

// State is an instance on this machine.
type State struct {
	Name             string
	PID              int  // of its process
	Running          bool // or else the process was killed
	Ephemeral        bool // it seals one command
	Cgroups          []string
	Prefix4, Prefix6 netip.Prefix
}

// Instances returns the instances on this machine: those that run, and those that a killed
// process left. It needs root.
func Instances() (out []State, err error) {
	if _, err := os.Stat(defaultRunDir); errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	reg, err := registry.Open(defaultRunDir)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, reg.Release()) }()
	all, err := reg.List()
	if err != nil {
		return nil, err
	}
	for _, f := range all {
		out = append(out, State{
			Name: f.Name, PID: f.Pid, Running: f.Alive, Ephemeral: f.Ephemeral,
			Cgroups: cgroup.Dirs(f.Cgroups), Prefix4: f.Prefix4, Prefix6: f.Prefix6,
		})
	}
	return out, nil
}
