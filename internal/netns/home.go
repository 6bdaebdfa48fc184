// SPDX-License-Identifier: Apache-2.0

package netns

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"

	"golang.org/x/sys/unix"
)

// initMounts is the mount namespace of PID 1.
const initMounts = "/proc/1/ns/mnt"

// InHome runs fn in a mount namespace in which a mount below the directory dir outlives
// this process and is visible to others: in that of PID 1, if the process has another one
// in which dir is the same directory, such as a systemd service with ProtectSystem=.
// Otherwise, or if the process is not allowed to enter that namespace, it runs fn in the
// current one. elsewhere reports whether fn ran in the namespace of PID 1.
//
// Entering that needs CAP_SYS_ADMIN, CAP_SYS_CHROOT and CAP_SYS_PTRACE. fn runs on a thread
// that exits afterwards, so that the process keeps no access to the other namespace.
func InHome(dir string, fn func() error) (elsewhere bool, err error) {
	here, home, ok := mountNamespaces()
	if !ok {
		return false, fn()
	}
	defer here.Close()
	defer home.Close()
	want, err := identify(dir)
	if err != nil {
		return false, fn()
	}
	onLastThread(func() {
		if unix.Unshare(unix.CLONE_FS) != nil || unix.Setns(int(home.Fd()), unix.CLONE_NEWNS) != nil {
			return
		}
		// Return at once, because the thread does not exit immediately.
		defer func() { _ = unix.Setns(int(here.Fd()), unix.CLONE_NEWNS) }()
		if got, ierr := identify(dir); ierr != nil || got != want {
			return
		}
		elsewhere = true
		err = fn()
	})
	if elsewhere {
		return true, err
	}
	return false, fn()
}

// mountNamespaces opens the mount namespaces of this process and of PID 1. It returns
// false if they are the same, or not accessible.
func mountNamespaces() (here, home *os.File, ok bool) {
	here, err := os.Open("/proc/thread-self/ns/mnt")
	if err != nil {
		return nil, nil, false
	}
	home, err = os.Open(initMounts)
	if err != nil {
		_ = here.Close()
		return nil, nil, false
	}
	a, aerr := here.Stat()
	b, berr := home.Stat()
	if aerr != nil || berr != nil || os.SameFile(a, b) {
		_, _ = here.Close(), home.Close()
		return nil, nil, false
	}
	return here, home, true
}

// identify returns the identity of a directory, which is the same in all mount namespaces.
func identify(dir string) (ID, error) {
	var st unix.Stat_t
	if err := unix.Stat(dir, &st); err != nil {
		return ID{}, err
	}
	return ID{Dev: uint64(st.Dev), Ino: st.Ino}, nil
}

// onLastThread runs fn on a thread that exits afterwards, and waits for fn.
func onLastThread(fn func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread()
		if unix.Gettid() == unix.Getpid() {
			// The main thread cannot exit. While it is locked here, fn gets another.
			onLastThread(fn)
			runtime.UnlockOSThread()
			return
		}
		fn() // the runtime destroys the thread of a goroutine that exits locked
	}()
	<-done
}

// Elsewhere reports whether names are mounted in another mount namespace than that of this
// process. It only works, and names can only be made, while the process may enter that.
func Elsewhere() bool {
	elsewhere, _ := InHome(homeDir(), func() error { return nil })
	return elsewhere
}

// homeDir returns the directory that must be the same in the other mount namespace: Dir, which
// a container may have as its only directory of the host, or the one above if Dir does not
// exist yet.
func homeDir() string {
	if _, err := os.Stat(Dir); err != nil {
		return filepath.Dir(Dir)
	}
	return Dir
}

// Mount gives the namespace a name, also in the mount namespace of PID 1 if that has the
// same Dir. It is not an error if the namespace has that name already. The error is
// fs.ErrExist if another namespace has it.
func (n *NS) Mount(name string) error {
	if err := checkName(name); err != nil {
		return err
	}
	elsewhere, err := InHome(homeDir(), func() error { return n.mount(name) })
	if err != nil || !elsewhere {
		return err
	}
	// The mount was propagated to this namespace, unless propagation is off.
	old, err := Open(name)
	if err == nil {
		same := old.ID() == n.ID()
		err = old.Close()
		if !same {
			err = fmt.Errorf("name namespace %s: %w", name, fs.ErrExist)
		}
		return err
	}
	if !errors.Is(err, ErrNotNamespace) && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return n.mountFile(name, 0)
}
