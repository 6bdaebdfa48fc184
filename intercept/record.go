// SPDX-License-Identifier: Apache-2.0

package intercept

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// record is what an instance leaves behind for those who come after it, in
// RUNDIR/NAME.lock. Its process holds a lock on that file for as long as it lives:
// a record without one is of a dead instance.
type record struct {
	Pid       int          `json:"pid"`
	Name      string       `json:"name"`
	Ephemeral bool         `json:"ephemeral"`
	Prefix4   netip.Prefix `json:"prefix4"`
	Prefix6   netip.Prefix `json:"prefix6"`
	Cgroups   []group      `json:"cgroups"`
	BPFFS     string       `json:"bpffs"`
}

// directories are those of the sealed cgroups.
func (r record) directories() []string { return directoriesOf(r.Cgroups) }

func directoriesOf(groups []group) []string {
	var dirs []string
	for _, g := range groups {
		dirs = append(dirs, g.Path)
	}
	return dirs
}

const recordSuffix = ".lock"

// registry is the directory of records, locked: nobody else opens, claims or
// clears an instance until release.
type registry struct {
	dir  string
	lock *os.File
}

// openRegistry waits for the lock on dir, which is held for moments only.
func openRegistry(dir string) (*registry, error) {
	if err := makePrivate(dir); err != nil {
		return nil, fmt.Errorf("make run directory: %w", err)
	}
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock run directory: %w", err)
	}
	if err := flock(f, unix.LOCK_EX); err != nil {
		return nil, errors.Join(fmt.Errorf("lock run directory %s: %w", dir, err), f.Close())
	}
	return &registry{dir: dir, lock: f}, nil
}

// makePrivate makes a directory that is its owner's alone, also where an earlier one was
// not.
func makePrivate(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	return os.Chmod(dir, 0o700)
}

func (r *registry) release() error { return r.lock.Close() }

func (r *registry) path(name string) string { return filepath.Join(r.dir, name+recordSuffix) }

// flock takes a lock on an open file; closing the file gives it back.
func flock(f *os.File, how int) error {
	for {
		err := unix.Flock(int(f.Fd()), how)
		if !errors.Is(err, unix.EINTR) { // the Go runtime's own signals
			return err
		}
	}
}

// found is a record as it was found.
type found struct {
	record
	alive bool
}

// list returns the records of all instances, living and dead.
func (r *registry) list() ([]found, error) {
	entries, err := os.ReadDir(r.dir)
	if err != nil {
		return nil, fmt.Errorf("list instances: %w", err)
	}
	var out []found
	for _, e := range entries {
		name, ok := strings.CutSuffix(e.Name(), recordSuffix)
		if !ok || !goodName.MatchString(name) {
			continue
		}
		f, err := r.look(name)
		if err != nil {
			return nil, err
		}
		out = append(out, f)
	}
	return out, nil
}

// look reads one record and tells whether its instance lives.
func (r *registry) look(name string) (found, error) {
	f, err := os.Open(r.path(name))
	if err != nil {
		return found{}, fmt.Errorf("look at instance %s: %w", name, err)
	}
	defer f.Close()
	out := found{record: record{Name: name}}
	err = flock(f, unix.LOCK_SH|unix.LOCK_NB)
	if err != nil && !errors.Is(err, unix.EWOULDBLOCK) {
		return found{}, fmt.Errorf("look at instance %s: %w", name, err)
	}
	out.alive = err != nil
	data, err := io.ReadAll(f)
	if err != nil {
		return found{}, fmt.Errorf("look at instance %s: %w", name, err)
	}
	// One that was cut off by a crash tells nothing but its name.
	if json.Unmarshal(data, &out.record) != nil || out.record.Name != name {
		out.record = record{Name: name}
	}
	return out, nil
}

// claim makes the calling process the owner of an instance that is dead or new,
// until the file is closed.
func (r *registry) claim(rec record) (*os.File, error) {
	f, err := os.OpenFile(r.path(rec.Name), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("claim instance %s: %w", rec.Name, err)
	}
	if err := flock(f, unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return nil, errors.Join(fmt.Errorf("claim instance %s: %w", rec.Name, err), f.Close())
	}
	data, err := json.Marshal(rec)
	if err == nil {
		err = f.Chmod(0o600) // an earlier one may have been more open
	}
	if err == nil {
		err = f.Truncate(0)
	}
	if err == nil {
		_, err = f.WriteAt(data, 0)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("record instance %s: %w", rec.Name, err), f.Close())
	}
	return f, nil
}

// forget removes an instance's record.
func (r *registry) forget(name string) error {
	if err := os.Remove(r.path(name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("forget instance %s: %w", name, err)
	}
	return nil
}

// errRunning names a living instance that is in the way.
func errRunning(f found) error { return runningError{f} }

// runningError is an [ErrOwned] that names the owner.
type runningError struct{ found }

func (e runningError) Error() string {
	return fmt.Sprintf("instance %s is running (process %d): stop it first", e.Name, e.Pid)
}

func (e runningError) Is(target error) bool { return target == ErrOwned }

// others returns the living instances but one.
func (r *registry) others(name string) ([]found, error) {
	all, err := r.list()
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(all, func(f found) bool { return !f.alive || f.Name == name }), nil
}
