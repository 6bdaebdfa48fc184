// SPDX-License-Identifier: Apache-2.0

package netns

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// initMounts is the mount namespace of PID 1.
const initMounts = "/proc/1/ns/mnt"

// InHome runs fn where a mount on something in the directory dir outlives this process
// and can be seen by others: in the mount namespace of PID 1, if the process has another
// one in which dir is the same directory, as a systemd service has with ProtectSystem=.
// Otherwise, or if the process may not enter that namespace, it runs fn where it is.
// elsewhere reports which.
//
// Entering takes CAP_SYS_ADMIN, CAP_SYS_CHROOT and CAP_SYS_PTRACE. fn runs on a thread
// that exits afterwards; nothing of the other namespace stays in reach.
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
		// Back at once, and not when the thread exits, which takes a moment.
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
// false if they are the same, or out of reach.
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

// identify tells one directory from another, across mount namespaces.
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
		fn() // a goroutine that exits while it is locked takes its thread along
	}()
	<-done
}

// Elsewhere reports whether names are mounted in another mount namespace than this
// process's. It can be asked, and names made, only as long as the process may enter that.
func Elsewhere() bool {
	elsewhere, _ := InHome(homeDir, func() error { return nil })
	return elsewhere
}

// homeDir is the directory that has to be the same in the other mount namespace. Not Dir,
// which may not exist yet, or be a mount of its own.
const homeDir = "/run"

// Mount gives the namespace a name, also in the mount namespace of PID 1 if that has the
// same /run. It is no error when it has that name already; it is fs.ErrExist when another
// namespace has it.
func (n *NS) Mount(name string) error {
	if err := checkName(name); err != nil {
		return err
	}
	elsewhere, err := InHome(homeDir, func() error { return n.mount(name) })
	if err != nil || !elsewhere {
		return err
	}
	// The mount came along, unless propagation was turned off.
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
