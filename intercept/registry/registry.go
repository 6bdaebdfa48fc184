// SPDX-License-Identifier: Apache-2.0

package registry

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"sotto/intercept/cgroup"
)

// Record describes an instance to later processes, in RUNDIR/NAME.lock. The process of the
// instance holds a lock on the file while it runs: a record that is not locked belongs to a
// dead instance.
type Record struct {
	Pid       int            `json:"pid"`
	Name      string         `json:"name"`
	Ephemeral bool           `json:"ephemeral"`
	Prefix4   netip.Prefix   `json:"prefix4"`
	Prefix6   netip.Prefix   `json:"prefix6"`
	Cgroups   []cgroup.Group `json:"cgroups"`
	BPFFS     string         `json:"bpffs"`

	// Earlier lists what earlier processes of the instance may have left, until this one has attached
	// its hooks: a start that fails must not forget it.
	Earlier []Leftover `json:"earlier,omitempty"`
}

// Leftover has what is needed to find the sockets and routes of a dead process.
type Leftover struct {
	Prefix4 netip.Prefix   `json:"prefix4"`
	Prefix6 netip.Prefix   `json:"prefix6"`
	Cgroups []cgroup.Group `json:"cgroups"`
}

// Equal reports whether both describe the same.
func (l Leftover) Equal(o Leftover) bool {
	return l.Prefix4 == o.Prefix4 && l.Prefix6 == o.Prefix6 && slices.Equal(l.Cgroups, o.Cgroups)
}

// Leftovers returns what the process of the record leaves if it dies, and what others left before.
func (r Record) Leftovers() []Leftover {
	return append([]Leftover{{r.Prefix4, r.Prefix6, r.Cgroups}}, r.Earlier...)
}

// Dirs returns the directories of the cgroups of leftovers.
func Dirs(all []Leftover) (dirs []string) {
	for _, l := range all {
		dirs = append(dirs, cgroup.Dirs(l.Cgroups)...)
	}
	return dirs
}

// Prefixes returns the valid prefixes of leftovers.
func Prefixes(all []Leftover) (prefixes []netip.Prefix) {
	for _, l := range all {
		for _, p := range []netip.Prefix{l.Prefix4, l.Prefix6} {
			if p.IsValid() && !slices.Contains(prefixes, p) {
				prefixes = append(prefixes, p)
			}
		}
	}
	return prefixes
}

var validName = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^sotto(-[a-z0-9]{1,8})?$`) })

// ValidName reports whether an instance can have this name: sotto, or sotto- with up to eight of a-z
// and 0-9. That keeps the names of interfaces, which are derived from it, within IFNAMSIZ, and lets
// leftovers be recognised.
func ValidName(name string) bool { return validName().MatchString(name) }

// Suffix is the end of the name of a record's file.
const Suffix = ".lock"

// Registry is the locked directory of records. Until [Registry.Release] no other process opens,
// claims or clears an instance.
type Registry struct {
	dir  string
	lock *os.File
}

// Open waits for the lock on dir, which is never held for long.
func Open(dir string) (*Registry, error) {
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
	return &Registry{dir: dir, lock: f}, nil
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
	return MakePrivate(dir)
}

// MakePrivate makes a directory that only its owner can access, or changes an existing one.
func MakePrivate(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	return os.Chmod(dir, 0o700)
}

func (r *Registry) Release() error { return r.lock.Close() }

func (r *Registry) path(name string) string { return filepath.Join(r.dir, name+Suffix) }

// flock locks an open file. Closing the file unlocks it.
func flock(f *os.File, how int) error {
	for {
		err := unix.Flock(int(f.Fd()), how)
		if !errors.Is(err, unix.EINTR) { // a signal of the Go runtime
			return err
		}
	}
}

// Found is a record, with the state of its instance.
type Found struct {
	Record
	Alive bool // its process is running
}

// List returns the records of all instances, running and dead.
func (r *Registry) List() ([]Found, error) {
	entries, err := os.ReadDir(r.dir)
	if err != nil {
		return nil, fmt.Errorf("list instances: %w", err)
	}
	var out []Found
	for _, e := range entries {
		name, ok := strings.CutSuffix(e.Name(), Suffix)
		if !ok || !ValidName(name) {
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
func (r *Registry) read(name string) (Found, error) {
	f, err := os.Open(r.path(name))
	if err != nil {
		return Found{}, fmt.Errorf("read the record of instance %s: %w", name, err)
	}
	defer f.Close()
	out := Found{Record: Record{Name: name}}
	err = flock(f, unix.LOCK_SH|unix.LOCK_NB)
	if err != nil && !errors.Is(err, unix.EWOULDBLOCK) {
		return Found{}, fmt.Errorf("read the record of instance %s: %w", name, err)
	}
	out.Alive = err != nil
	data, err := io.ReadAll(f)
	if err != nil {
		return Found{}, fmt.Errorf("read the record of instance %s: %w", name, err)
	}
	// Of a record that is incomplete because of a crash, only the name is known.
	if json.Unmarshal(data, &out.Record) != nil || out.Record.Name != name {
		out.Record = Record{Name: name}
	}
	return out, nil
}

// Claim makes the calling process the owner of a new or dead instance, until the file is
// closed.
func (r *Registry) Claim(rec Record) (*os.File, error) {
	f, err := os.OpenFile(r.path(rec.Name), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("claim instance %s: %w", rec.Name, err)
	}
	if err := flock(f, unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return nil, errors.Join(fmt.Errorf("claim instance %s: %w", rec.Name, err), f.Close())
	}
	err = f.Chmod(0o600) // an older file may have another mode
	if err == nil {
		err = Write(f, rec)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("record instance %s: %w", rec.Name, err), f.Close())
	}
	return f, nil
}

// Write replaces the content of a record. The registry is locked.
func Write(f *os.File, rec Record) error {
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

// Remove removes an instance's record.
func (r *Registry) Remove(name string) error {
	if err := os.Remove(r.path(name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove the record of instance %s: %w", name, err)
	}
	return nil
}

// ErrOwned is returned if another process owns an instance.
var ErrOwned = errors.New("another process has the instance")

// RunningError is an [ErrOwned] that names the owning process.
type RunningError struct{ Found }

func (e RunningError) Error() string {
	return fmt.Sprintf("instance %s is running (process %d): stop it first", e.Name, e.Pid)
}

func (e RunningError) Is(target error) bool { return target == ErrOwned }

// Others returns all running instances except the one called name.
func (r *Registry) Others(name string) ([]Found, error) {
	all, err := r.List()
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(all, func(f Found) bool { return !f.Alive || f.Name == name }), nil
}
