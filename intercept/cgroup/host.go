// SPDX-License-Identifier: Apache-2.0

package cgroup

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// mountPoint is where EnterHost mounts the hierarchy: every container has this directory.
const mountPoint = "/sys/fs/cgroup"

// EnterHost makes the whole hierarchy visible to a process in a container that shares the
// PID namespace of the host (docker run --pid=host, hostPID: true in Kubernetes), but has
// cgroup and mount namespaces of its own. It does nothing if the hierarchy is visible, or if
// the namespaces of PID 1 are those of this process.
//
// A thread has a cgroup namespace, and Go cannot change that of all threads. EnterHost
// therefore enters the namespace of PID 1 and executes this program again, in the same
// process and with the same arguments: it does not return then, and the next call continues.
// If the hierarchy is still not mounted here it mounts it, in this mount namespace only.
//
// It needs CAP_SYS_ADMIN, and CAP_SYS_PTRACE to access the namespaces of PID 1.
func EnterHost() error {
	_, err := Root()
	if !errors.As(err, new(*NotFoundError)) {
		return nil // visible; other errors are those of the caller's own look-up
	}
	differs, err := differsFromInit("cgroup")
	if err == nil && differs {
		err = executeIn("/proc/1/ns/cgroup")
	}
	if err == nil {
		if differs, err = differsFromInit("mnt"); err == nil && differs {
			err = mountHierarchy()
		}
	}
	if err != nil {
		return fmt.Errorf("enter the cgroup namespace of the host: %w; %s", err, fixNamespace)
	}
	return nil
}

// differsFromInit reports whether PID 1 has another namespace of this kind.
func differsFromInit(kind string) (bool, error) {
	own, err := os.Stat("/proc/self/ns/" + kind)
	if err != nil {
		return false, err
	}
	host, err := os.Stat("/proc/1/ns/" + kind)
	if err == nil && host.IsDir() {
		// Linux 5.10 follows the link of another process without an error, and does not leave
		// the directory.
		err = &fs.PathError{Op: "stat", Path: "/proc/1/ns/" + kind, Err: unix.EACCES}
	}
	if errors.Is(err, fs.ErrPermission) {
		return false, fmt.Errorf("%w: CAP_SYS_PTRACE is missing", err)
	}
	if err != nil {
		return false, err
	}
	return !os.SameFile(own, host), nil
}

// executeIn enters a cgroup namespace and executes this program again. It returns only an
// error.
func executeIn(namespace string) error {
	f, err := os.Open(namespace)
	if err != nil {
		return err
	}
	defer f.Close()
	runtime.LockOSThread() // and never unlock after an error: the thread has changed
	if err := unix.Setns(int(f.Fd()), unix.CLONE_NEWCGROUP); err != nil {
		return fmt.Errorf("setns: %w", err)
	}
	return fmt.Errorf("execute this program again: %w", unix.Exec("/proc/self/exe", os.Args, os.Environ()))
}

// mountHierarchy mounts the whole hierarchy in this mount namespace.
func mountHierarchy() error {
	if err := unix.Mount("cgroup2", mountPoint, "cgroup2", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
		return fmt.Errorf("mount cgroup2 on %s: %w", mountPoint, err)
	}
	return nil
}
