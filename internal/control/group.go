// SPDX-License-Identifier: Apache-2.0

package control

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
)

// RunDir is the directory of the default control socket. It also has the records of package
// intercept, whose files are for their owner only.
const RunDir = "/run/sotto"

// groupDir is the mode of a directory whose socket has a group. Members can only traverse it.
// The set-group-ID bit gives the group to a socket that is created later, by a process that has
// dropped the capability to change groups.
const groupDir = fs.ModeSetgid | 0o710

// makeDir creates dir, for its owner and the group, if that is not 0. Of existing directories it
// changes only [RunDir], and fails if the group cannot traverse another one.
func makeDir(dir string, group int) error {
	_, err := os.Lstat(dir)
	isNew := errors.Is(err, fs.ErrNotExist)
	if err := os.MkdirAll(dir, 0o700); err != nil || group == 0 {
		return err
	}
	info, err := os.Stat(dir)
	if err != nil {
		return err
	}
	own := groupOf(info) == group
	switch shared := isNew || filepath.Clean(dir) == RunDir; {
	case shared && own && info.Mode() == fs.ModeDir|groupDir:
		return nil
	case shared:
		return share(dir, group)
	case info.Mode()&0o001 != 0, own && info.Mode()&0o010 != 0:
		return nil
	}
	return fmt.Errorf("members of group %d (control-group) cannot reach the socket: chgrp %d %s; chmod g+xs %s", group, group, dir, dir)
}

// share gives dir the mode groupDir and the group. It sets the mode while dir has the group of this
// process: otherwise the kernel would clear the set-group-ID bit, except with CAP_FSETID.
func share(dir string, group int) error {
	if err := os.Chown(dir, -1, os.Getegid()); err != nil {
		return err
	}
	if err := os.Chmod(dir, groupDir); err != nil {
		return err
	}
	return groupError(os.Chown(dir, -1, group))
}

// giveTo lets the members of the group use the socket at path, if the group is not 0. The socket
// has the mode 0600 until it belongs to the group.
func giveTo(path string, group int) error {
	if group == 0 {
		return nil
	}
	info, err := os.Lstat(path)
	if err != nil {
		return err
	}
	if groupOf(info) != group {
		if err := os.Lchown(path, -1, group); err != nil {
			return groupError(err)
		}
	}
	return os.Chmod(path, 0o660)
}

func groupError(err error) error {
	if errors.Is(err, fs.ErrPermission) {
		return fmt.Errorf("%w: start Sotto with the capability CAP_CHOWN or as a member of the group, or remove control-group", err)
	}
	return err
}

func groupOf(info fs.FileInfo) int { return int(info.Sys().(*syscall.Stat_t).Gid) }
