// SPDX-License-Identifier: Apache-2.0

package kubelet

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"sotto/internal/names"
)

const (
	// DefaultFile is where kubeadm writes the configuration.
	DefaultFile = "/var/lib/kubelet/config.yaml"

	// stateDir is the kubelet's default --root-dir: without it, and outside of a pod, no
	// process is looked at.
	stateDir = "/var/lib/kubelet"

	// maxFile limits the files that are read. A configuration has a few kilobytes.
	maxFile = 1 << 20
)

// Options say where [Find] looks. The zero value is the default.
type Options struct {
	Root string // directory in front of all paths; for tests
	File string // configuration file, which must exist; "": as the kubelet's command line says, or DefaultFile

	// InPod is set if this process runs in a pod, where [DefaultFile] may not be visible.
	InPod bool

	seen command // of the kubelet that ran before, for its flags
}

// Found is a configuration and where it was found.
type Found struct {
	Config
	Source string // for logs; "" if there is no kubelet

	// Pending is set on a node if no running kubelet was found, or its file does not exist yet:
	// Config may be another one later.
	Pending bool

	command command // of the process
}

// Find returns the configuration of the kubelet on this node. It returns the zero value if there
// is none, except for Pending. An error names the file that cannot be used.
func Find(o Options) (f Found, err error) {
	if o.Root == "" {
		o.Root = "/"
	}
	var pid string
	var cmd command
	node := o.InPod || exists(filepath.Join(o.Root, stateDir))
	if node || o.File != "" {
		pid, cmd = o.process()
	}
	f.command, f.Pending = cmd, node && pid == ""
	if o.File != "" {
		f.Source = o.File
		if pid == "" {
			cmd = o.seen
		}
		if err := f.read(filepath.Join(o.Root, o.File)); err != nil {
			return f, fmt.Errorf("read the kubelet's configuration: %s: %w", o.File, err)
		}
		return f, f.override(cmd.flags)
	}
	file := cmd.file
	if file == "" {
		file = DefaultFile
	}
	if err := o.files(&f, pid, file, cmd.dir); err != nil {
		return f, err
	}
	if err := f.override(cmd.flags); err != nil {
		return f, fmt.Errorf("read the kubelet's command line: process %s: %w", pid, err)
	}
	if f.Source == "" && pid != "" {
		f.Source = "the command line of kubelet, process " + pid
		f.Pending = cmd.file != ""
	}
	return f, nil
}

// Finder finds the configuration again for each reload. What was found stays in force while the
// kubelet is being restarted, and if Sotto, which has dropped its privileges, may not look into
// the kubelet's mount namespace any more. Its method is safe for concurrent use.
type Finder struct {
	Options Options

	mu   sync.Mutex
	seen command          // of the last kubelet that ran
	last map[string]Found // by file
}

// Find is the function [Find] with the file that a setting names, or "".
func (f *Finder) Find(file string) (Found, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	o := f.Options
	o.File, o.seen = file, f.seen
	found, err := Find(o)
	if found.command.isKubelet {
		f.seen = found.command
	}
	old, ok := f.last[file]
	switch {
	case ok && errors.Is(err, fs.ErrPermission):
		return old, nil
	case err != nil:
		return found, err
	case ok && file == "" && found.Pending && !old.Pending:
		old.Pending = true
		return old, nil
	}
	if f.last == nil {
		f.last = make(map[string]Found)
	}
	f.last[file] = found
	return found, nil
}

// files reads the configuration file and its drop-in files as the process pid sees them, or as
// this process does.
func (o Options) files(f *Found, pid, file, dir string) error {
	path, err := o.open(pid, file, f.read)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return fmt.Errorf("read the kubelet's configuration: %s: %w", path, err)
	default:
		f.Source = path
	}
	if dir == "" {
		return nil
	}
	_, err = o.open(pid, dir, func(dir string) error {
		entries, err := os.ReadDir(dir) // sorted, as the kubelet reads them
		for _, e := range entries {
			if err == nil && strings.HasSuffix(e.Name(), ".conf") {
				err = f.read(filepath.Join(dir, e.Name()))
			}
		}
		return err
	})
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("read the kubelet's configuration: %s: %w", dir, err)
	}
	return nil
}

// open calls use with a path as the process sees it. The kubelet may be in another mount
// namespace, which only a privileged process can look into; the path is tried in this one then.
func (o Options) open(pid, path string, use func(string) error) (used string, err error) {
	err = fs.ErrNotExist
	if pid != "" {
		base := "root"
		if !strings.HasPrefix(path, "/") {
			base = "cwd"
		}
		if err = use(filepath.Join(o.Root, "proc", pid, base, path)); err == nil {
			return path, nil
		}
	}
	if strings.HasPrefix(path, "/") && (errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission)) {
		here := use(filepath.Join(o.Root, path))
		if !errors.Is(here, fs.ErrNotExist) || errors.Is(err, fs.ErrNotExist) {
			err = here
		}
	}
	return path, err
}

// read reads one file over the configuration.
func (c *Config) read(path string) error {
	text, err := readFile(path)
	if err != nil {
		return err
	}
	return c.Parse(text)
}

// process returns the process ID and the command line of the kubelet, or "".
func (o Options) process() (pid string, cmd command) {
	entries, err := os.ReadDir(filepath.Join(o.Root, "proc"))
	if err != nil {
		return "", cmd
	}
	for _, e := range entries {
		if _, err := strconv.Atoi(e.Name()); err != nil {
			continue
		}
		dir := filepath.Join(o.Root, "proc", e.Name())
		text, err := readFile(filepath.Join(dir, "cmdline"))
		if err != nil {
			continue
		}
		cmd := parseCommand(strings.Split(strings.TrimRight(string(text), "\x00"), "\x00"))
		if cmd.isKubelet && isTrusted(dir) {
			return e.Name(), cmd
		}
	}
	return "", command{}
}

// isTrusted reports whether the process with a directory in /proc belongs to root, with its real
// and effective user ID, and is in no container.
func isTrusted(dir string) bool {
	status, err := readFile(filepath.Join(dir, "status"))
	if err != nil {
		return false
	}
	uids := fieldsOf(status, "Uid:")
	if len(uids) < 2 || uids[0] != "0" || uids[1] != "0" {
		return false
	}
	cgroup, err := readFile(filepath.Join(dir, "cgroup"))
	if err != nil {
		return false
	}
	for line := range strings.Lines(string(cgroup)) {
		_, path, _ := strings.Cut(strings.TrimSpace(line), "::")
		if path == "" {
			continue // of cgroup v1
		}
		if strings.HasPrefix(path, "/..") {
			return false // outside of the cgroup namespace of this process: it cannot be known
		}
		kind := names.Parse(path).Kind
		return kind == "" || kind == names.Unit
	}
	return false
}

// fieldsOf returns the words after a key at the start of a line.
func fieldsOf(text []byte, key string) []string {
	for line := range bytes.Lines(text) {
		if rest, ok := bytes.CutPrefix(line, []byte(key)); ok {
			return strings.Fields(string(rest))
		}
	}
	return nil
}

// readFile reads a regular file without waiting for the writer of a pipe.
func readFile(path string) ([]byte, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() {
		return nil, errors.Join(err, fmt.Errorf("%s is not a regular file", path))
	}
	text, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err == nil && len(text) > maxFile {
		err = fmt.Errorf("it is larger than %d bytes", maxFile)
	}
	return text, err
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}
