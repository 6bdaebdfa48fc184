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

	"sotto/intercept/cgroup"
)

// record describes an instance to later processes, in RUNDIR/NAME.lock. The process of the
// instance holds a lock on the file while it runs: a record that is not locked belongs to a
// dead instance.
type record struct {
	Pid       int            `json:"pid"`
	Name      string         `json:"name"`
	Ephemeral bool           `json:"ephemeral"`
	Prefix4   netip.Prefix   `json:"prefix4"`
	Prefix6   netip.Prefix   `json:"prefix6"`
	Cgroups   []cgroup.Group `json:"cgroups"`
	BPFFS     string         `json:"bpffs"`

	// Earlier lists what earlier processes of the instance may have left, until this one has attached
	// its hooks: a start that fails must not forget it.
	Earlier []leftover `json:"earlier,omitempty"`
}

// leftover has what is needed to find the sockets and routes of a dead process.
type leftover struct {
	Prefix4 netip.Prefix   `json:"prefix4"`
	Prefix6 netip.Prefix   `json:"prefix6"`
	Cgroups []cgroup.Group `json:"cgroups"`
}

func (l leftover) equal(o leftover) bool {
	return l.Prefix4 == o.Prefix4 && l.Prefix6 == o.Prefix6 && slices.Equal(l.Cgroups, o.Cgroups)
}

// leftovers returns what the process of the record leaves if it dies, and what others left before.
func (r record) leftovers() []leftover {
	return append([]leftover{{r.Prefix4, r.Prefix6, r.Cgroups}}, r.Earlier...)
}

// dirsOf returns the directories of the cgroups of leftovers.
func dirsOf(all []leftover) (dirs []string) {
	for _, l := range all {
		dirs = append(dirs, cgroup.Dirs(l.Cgroups)...)
	}
	return dirs
}

// prefixesIn returns the valid prefixes of leftovers.
func prefixesIn(all []leftover) (prefixes []netip.Prefix) {
	for _, l := range all {
		for _, p := range []netip.Prefix{l.Prefix4, l.Prefix6} {
			if p.IsValid() && !slices.Contains(prefixes, p) {
				prefixes = append(prefixes, p)
			}
		}
	}
	return prefixes
}

const recordSuffix = ".lock"

// registry is the locked directory of records. Until release no other process opens, claims
// or clears an instance.
type registry struct {
	dir  string
	lock *os.File
}

// openRegistry waits for the lock on dir, which is never held for long.
func openRegistry(dir string) (*registry, error) {
	if err := makeRunDir(dir); err != nil {
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

// traversable is the mode of a directory with a control socket for a group (package control). Other
// users cannot access records, whose mode is 0600.
const traversable = fs.ModeDir | 0o711

// makeRunDir makes a directory that only its owner can access, or changes an existing one unless
// its mode is traversable.
func makeRunDir(dir string) error {
	if info, err := os.Stat(dir); err == nil && info.Mode() == traversable {
		return nil
	}
	return makePrivate(dir)
}

// makePrivate makes a directory that only its owner can access, or changes an existing one.
func makePrivate(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	return os.Chmod(dir, 0o700)
}

func (r *registry) release() error { return r.lock.Close() }

func (r *registry) path(name string) string { return filepath.Join(r.dir, name+recordSuffix) }

// flock locks an open file. Closing the file unlocks it.
func flock(f *os.File, how int) error {
	for {
		err := unix.Flock(int(f.Fd()), how)
		if !errors.Is(err, unix.EINTR) { // a signal of the Go runtime
			return err
		}
	}
}

// found is a record, with the state of its instance.
type found struct {
	record
	alive bool // its process is running
}

// list returns the records of all instances, running and dead.
func (r *registry) list() ([]found, error) {
	entries, err := os.ReadDir(r.dir)
	if err != nil {
		return nil, fmt.Errorf("list instances: %w", err)
	}
	var out []found
	for _, e := range entries {
		name, ok := strings.CutSuffix(e.Name(), recordSuffix)
		if !ok || !validName().MatchString(name) {
			continue
		}
		f, err := r.read(name)
		if err != nil {
			return nil, err
		}
		out = append(out, f)
	}
	return out, nil
}

// read reads one record and finds out whether its instance is running.
func (r *registry) read(name string) (found, error) {
	f, err := os.Open(r.path(name))
	if err != nil {
		return found{}, fmt.Errorf("read the record of instance %s: %w", name, err)
	}
	defer f.Close()
	out := found{record: record{Name: name}}
	err = flock(f, unix.LOCK_SH|unix.LOCK_NB)
	if err != nil && !errors.Is(err, unix.EWOULDBLOCK) {
		return found{}, fmt.Errorf("read the record of instance %s: %w", name, err)
	}
	out.alive = err != nil
	data, err := io.ReadAll(f)
	if err != nil {
		return found{}, fmt.Errorf("read the record of instance %s: %w", name, err)
	}
	// Of a record that is incomplete because of a crash, only the name is known.
	if json.Unmarshal(data, &out.record) != nil || out.record.Name != name {
		out.record = record{Name: name}
	}
	return out, nil
}

// claim makes the calling process the owner of a new or dead instance, until the file is
// closed.
func (r *registry) claim(rec record) (*os.File, error) {
	f, err := os.OpenFile(r.path(rec.Name), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("claim instance %s: %w", rec.Name, err)
	}
	if err := flock(f, unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return nil, errors.Join(fmt.Errorf("claim instance %s: %w", rec.Name, err), f.Close())
	}
	err = f.Chmod(0o600) // an older file may have another mode
	if err == nil {
		err = writeRecord(f, rec)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("record instance %s: %w", rec.Name, err), f.Close())
	}
	return f, nil
}

// writeRecord replaces the content of a record. The registry is locked.
func writeRecord(f *os.File, rec record) error {
	data, err := json.Marshal(rec)
	if err != nil {
		return err
	}
	if err := f.Truncate(0); err != nil {
		return err
	}
	_, err = f.WriteAt(data, 0)
	return err
}

// remove removes an instance's record.
func (r *registry) remove(name string) error {
	if err := os.Remove(r.path(name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove the record of instance %s: %w", name, err)
	}
	return nil
}

// runningError is an [ErrOwned] that names the owning process.
type runningError struct{ found }

func (e runningError) Error() string {
	return fmt.Sprintf("instance %s is running (process %d): stop it first", e.Name, e.Pid)
}

func (e runningError) Is(target error) bool { return target == ErrOwned }

// others returns all running instances except the one called name.
func (r *registry) others(name string) ([]found, error) {
	all, err := r.list()
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(all, func(f found) bool { return !f.alive || f.Name == name }), nil
}
