// SPDX-License-Identifier: Apache-2.0

package control

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"
)

// RunDir is the directory of the default control socket. It also has the records of package
// intercept, whose files are for their owner only.
const RunDir = "/run/sotto"

// groupDir is the mode of a directory whose socket has a group: all users can traverse it, and only its
// owner can list it. It does not belong to the group, because systemd returns the directory of a service
// to its user with every command that it runs for the service, such as at a reload. It has no
// set-group-ID bit, which RestrictSUIDSGID= of the unit forbids to set.
const groupDir fs.FileMode = 0o711

// makeDir creates dir for its owner, and if group is not 0, lets its members traverse it. Of existing
// directories it changes only [RunDir], and fails if the group cannot traverse another one.
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
	switch shared := isNew || filepath.Clean(dir) == RunDir; {
	case shared && info.Mode() == fs.ModeDir|groupDir:
		return nil
	case shared:
		return os.Chmod(dir, groupDir)
	case info.Mode()&0o001 != 0, groupOf(info) == group && info.Mode()&0o010 != 0:
		return nil
	}
	return fmt.Errorf("members of group %d (control-group) cannot reach the socket: chgrp %d %s; chmod g+x %s", group, group, dir, dir)
}

// giveTo lets the members of the group use the socket at path, if the group is not 0. The socket
// has the mode 0600 until it belongs to the group. A process that may not change the group, because it
// has dropped its capabilities, grants access by a list instead.
func giveTo(path string, group int) error {
	if group == 0 {
		return nil
	}
	info, err := os.Lstat(path)
	if err != nil {
		return err
	}
	if groupOf(info) != group {
		err := os.Lchown(path, -1, group)
		if errors.Is(err, fs.ErrPermission) && grant(path, group) == nil {
			return nil
		}
		if err != nil {
			return groupError(err)
		}
	}
	return os.Chmod(path, 0o660)
}

// Entries of an access control list (linux/posix_acl.h, linux/posix_acl_xattr.h).
const (
	aclVersion  = 2
	aclOwner    = 0x01
	aclOwnGroup = 0x04
	aclGroup    = 0x08
	aclMask     = 0x10
	aclOther    = 0x20
	aclNoID     = ^uint32(0)

	aclNone, aclReadWrite = 0, 6
)

// grant gives the owner and the group, and no others, access to the file at path by an access control
// list, which needs no capability.
func grant(path string, group int) error {
	list := binary.LittleEndian.AppendUint32(nil, aclVersion)
	for _, e := range []struct {
		tag, perm uint16
		id        uint32
	}{
		{aclOwner, aclReadWrite, aclNoID},
		{aclOwnGroup, aclNone, aclNoID},
		{aclGroup, aclReadWrite, uint32(group)},
		{aclMask, aclReadWrite, aclNoID},
		{aclOther, aclNone, aclNoID},
	} {
		list = binary.LittleEndian.AppendUint16(list, e.tag)
		list = binary.LittleEndian.AppendUint16(list, e.perm)
		list = binary.LittleEndian.AppendUint32(list, e.id)
	}
	return unix.Lsetxattr(path, "system.posix_acl_access", list, 0)
}

func groupError(err error) error {
	if errors.Is(err, fs.ErrPermission) {
		return fmt.Errorf("%w: start Sotto with the capability CAP_CHOWN or as a member of the group, or remove control-group", err)
	}
	return err
}

func groupOf(info fs.FileInfo) int { return int(info.Sys().(*syscall.Stat_t).Gid) }
