// SPDX-License-Identifier: Apache-2.0

package attached

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
)

// ownPrefix starts the names of Sotto's programs.
const ownPrefix = "sotto_"

// Program is a program of other software on a cgroup.
type Program struct {
	Hook ebpf.AttachType
	Name string
	ID   ebpf.ProgramID
}

// Programs returns the programs of other software on the hooks of the cgroup with the directory
// dir, without those of the cgroups above and below it. They are in the order of hooks. After an
// error it returns those that it found until then.
func Programs(dir string, hooks ...ebpf.AttachType) (out []Program, err error) {
	f, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	for _, hook := range hooks {
		found, err := link.QueryPrograms(link.QueryOptions{Target: int(f.Fd()), Attach: hook})
		if err != nil {
			return out, fmt.Errorf("list the programs on cgroup %s: %w", dir, err)
		}
		for _, p := range found.Programs {
			name, err := nameOf(p.ID)
			if errors.Is(err, fs.ErrNotExist) || strings.HasPrefix(name, ownPrefix) {
				continue // it was detached meanwhile, or it is Sotto's
			}
			if err != nil {
				return out, fmt.Errorf("examine program %d on cgroup %s: %w", p.ID, dir, err)
			}
			out = append(out, Program{Hook: hook, Name: name, ID: p.ID})
		}
	}
	return out, nil
}

func nameOf(id ebpf.ProgramID) (string, error) {
	p, err := ebpf.NewProgramFromID(id)
	if err != nil {
		return "", err
	}
	defer p.Close()
	info, err := p.Info()
	if err != nil {
		return "", err
	}
	return info.Name, nil
}
