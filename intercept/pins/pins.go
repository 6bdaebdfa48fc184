// SPDX-License-Identifier: Apache-2.0

// Package pins knows where an instance pins its maps and hooks in the BPF file system, and
// mounts that file system where it is missing.
//
// What is pinned outlives the process. The pins of an instance are in BPFFS/sotto/NAME:
// maps as map_NAME, hooks on cgroups as link_HOOK_CGROUPID. Package guard keeps its own
// there, too.
package pins

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"sotto/internal/netns"
)

// Base returns the directory of the pins of all instances.
func Base(bpffs string) string { return filepath.Join(bpffs, "sotto") }

// Dir returns the directory of the pins of an instance.
func Dir(bpffs, name string) string { return filepath.Join(Base(bpffs), name) }

// Map returns the pin of a map.
func Map(dir, name string) string { return filepath.Join(dir, "map_"+name) }

const hookPrefix = "link_"

// Hook returns the pin of a hook on a cgroup.
func Hook(dir, hook string, cgroupID uint64) string {
	return filepath.Join(dir, fmt.Sprintf("%s%s_%x", hookPrefix, hook, cgroupID))
}

// Hooks returns the pins of all hooks of an instance.
func Hooks(dir string) ([]string, error) {
	all, err := filepath.Glob(filepath.Join(dir, hookPrefix+"*"))
	if err != nil {
		return nil, fmt.Errorf("list pinned hooks: %w", err)
	}
	return all, nil
}

// HasHooks reports whether an earlier process of the instance left hooks.
func HasHooks(dir string) (bool, error) {
	all, err := Hooks(dir)
	return len(all) > 0, err
}

// IsHook reports whether a pin is that of a hook whose name starts with prefix.
func IsHook(pin, prefix string) bool {
	return strings.HasPrefix(filepath.Base(pin), hookPrefix+prefix)
}

// CgroupOf returns the cgroup ID in the pin of a hook.
func CgroupOf(pin string) (id uint64, ok bool) {
	base := filepath.Base(pin)
	if !strings.HasPrefix(base, hookPrefix) {
		return 0, false
	}
	id, err := strconv.ParseUint(base[strings.LastIndexByte(base, '_')+1:], 16, 64)
	return id, err == nil
}

// Replace replaces the program of a pinned link, atomically.
func Replace(pin string, prog *ebpf.Program) error {
	l, err := link.LoadPinnedLink(pin, nil)
	if err != nil {
		return err
	}
	return errors.Join(l.Update(prog), l.Close())
}

// ReplaceOn is [Replace] for a hook on the cgroup with the ID. It returns an error if the hook is on
// another cgroup, or was detached.
func ReplaceOn(pin string, cgroupID uint64, prog *ebpf.Program) error {
	l, err := link.LoadPinnedLink(pin, nil)
	if err != nil {
		return err
	}
	info, err := l.Info()
	switch c := info.Cgroup(); {
	case err != nil:
	case c == nil || c.CgroupId != cgroupID:
		err = fmt.Errorf("hook %s: not on cgroup %d", pin, cgroupID)
	default:
		err = l.Update(prog)
	}
	return errors.Join(err, l.Close())
}

// Detach detaches pinned links at once, also if another process has them open, and removes
// their pins.
func Detach(pins []string) error {
	var errs []error
	for _, pin := range pins {
		if l, err := link.LoadPinnedLink(pin, nil); err == nil {
			// It fails (ENOLINK) if the cgroup was removed, and the link with it.
			_ = l.Detach()
			errs = append(errs, l.Close())
		}
		if err := os.Remove(pin); err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, fmt.Errorf("remove hook %s: %w", pin, err))
		}
	}
	return errors.Join(errs...)
}

// Mount mounts the BPF file system on dir, unless it is mounted.
func Mount(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("make %s: %w", dir, err)
	}
	mounted, err := isMounted(dir)
	if err != nil || mounted {
		return err
	}
	// Each mount is a file system of its own. In a mount namespace of this process the pins,
	// and with them the seal, would not outlive the process.
	if _, err := netns.InHome(dir, func() error { return mountHere(dir) }); err != nil {
		return fmt.Errorf("mount bpffs on %s: %w; in a container: -v %s:%s", dir, err, dir, dir)
	}
	if mounted, err = isMounted(dir); err != nil {
		return err
	}
	if !mounted {
		return fmt.Errorf("%s: bpffs was mounted for PID 1 and does not appear here: turn on mount propagation, or mount it before this process starts", dir)
	}
	return nil
}

func isMounted(dir string) (bool, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return false, fmt.Errorf("stat %s: %w", dir, err)
	}
	return st.Type == unix.BPF_FS_MAGIC, nil
}

// mountHere mounts the BPF file system in the calling thread's mount namespace.
func mountHere(dir string) error {
	mounted, err := isMounted(dir)
	if err != nil || mounted {
		return err
	}
	return unix.Mount("bpf", dir, "bpf", 0, "mode=0700")
}
