// SPDX-License-Identifier: Apache-2.0

package nssockets

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"sotto/internal/mountinfo"
)

// directories are those of the sockets: of systemd-resolved (nss-resolve uses
// io.systemd.Resolve there), and of nscd.
var directories = []string{"/run/systemd/resolve", "/run/nscd", "/var/run/nscd"}

// hostName is the subdirectory that shows the original directory, for the files in it that
// are not sockets. /etc/resolv.conf is often a link to one of them.
const hostName = ".host"

// Start calls start on a thread that sees none of the sockets. A process that start starts
// inherits that. If there are none, or they cannot be hidden, start is called all the same;
// the error is the reason. It returns after start.
func Start(start func()) error {
	dirs := existing(directories)
	if len(dirs) == 0 {
		start()
		return nil
	}
	done := make(chan error)
	go func() {
		// The goroutine exits locked, and the runtime destroys its thread, so that no other
		// goroutine runs in the mount namespace.
		runtime.LockOSThread()
		err := hide(dirs)
		start()
		done <- err
	}()
	return <-done
}

// existing returns the directories that exist, without links and each once, except those that
// are hidden already: a command of `exec` may be another `exec`.
func existing(dirs []string) []string {
	var out []string
	for _, d := range dirs {
		path, err := filepath.EvalSymlinks(d)
		if err != nil || slices.Contains(out, path) {
			continue
		}
		if _, err := os.Lstat(filepath.Join(path, hostName)); err == nil {
			continue
		}
		out = append(out, path)
	}
	return out
}

// hide gives the calling thread a mount namespace in which the sockets in dirs are hidden.
func hide(dirs []string) error {
	mounts, err := mountinfo.Read()
	if err != nil {
		return err
	}
	if err := unix.Unshare(unix.CLONE_FS | unix.CLONE_NEWNS); err != nil {
		return fmt.Errorf("create a mount namespace: %w", err)
	}
	var errs []error
	for _, dir := range dirs {
		if err := hideIn(dir, mounts); err != nil {
			errs = append(errs, fmt.Errorf("hide the sockets in %s: %w", dir, err))
		}
	}
	return errors.Join(errs...)
}

// hideIn mounts an empty file system on dir, with links to what is not a socket.
func hideIn(dir string, mounts []mountinfo.Mount) error {
	// Mounts on a shared mount would also appear in the other mount namespaces. All other
	// mounts stay shared, so that the command can mount for all as before.
	if err := unix.Mount("", mountOf(dir, mounts), "", unix.MS_SLAVE, ""); err != nil {
		return fmt.Errorf("stop the propagation of mounts: %w", err)
	}
	original, err := unix.OpenTree(unix.AT_FDCWD, dir, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_RECURSIVE)
	if err != nil {
		return fmt.Errorf("open its mount: %w", err)
	}
	defer unix.Close(original)
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	if err := unix.Mount("tmpfs", dir, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "mode=0755,size=64k"); err != nil {
		return fmt.Errorf("mount tmpfs: %w", err)
	}
	host := filepath.Join(dir, hostName)
	if err := os.Mkdir(host, 0o755); err != nil {
		return err
	}
	if err := unix.MoveMount(original, "", unix.AT_FDCWD, host, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		return fmt.Errorf("mount the original: %w", err)
	}
	for _, e := range entries {
		if e.Type()&fs.ModeSocket == 0 {
			if err := os.Symlink(filepath.Join(hostName, e.Name()), filepath.Join(dir, e.Name())); err != nil {
				return err
			}
		}
	}
	return nil
}

// mountOf returns the mount point of the mount that contains path.
func mountOf(path string, mounts []mountinfo.Mount) string {
	best := "/"
	for _, m := range mounts {
		if len(m.Point) >= len(best) && (path == m.Point || strings.HasPrefix(path, strings.TrimSuffix(m.Point, "/")+"/")) {
			best = m.Point
		}
	}
	return best
}
