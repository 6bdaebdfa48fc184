// SPDX-License-Identifier: Apache-2.0

package cache

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// SaveFile writes the cache to the file at path ([Cache.Save]), readable by its owner only,
// since it shows which names were queried. After an error or a crash, path is the complete
// old file or the complete new one. A temporary file path + ".new" is used and removed.
//
// A symbolic link at path, or at path + ".new", is replaced and not followed. If a user
// other than root or the process's own could replace the directory of path, SaveFile
// returns an error, since that user could choose where the file is written.
func (c *Cache) SaveFile(path string, now time.Time) (err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("save the cache to %s: %w", path, err)
		}
	}()
	dir, err := openDir(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(c.saveIn(dir, filepath.Base(path), now), dir.Close())
}

// saveIn writes the cache to the file called name in an open directory.
func (c *Cache) saveIn(dir *os.File, name string, now time.Time) error {
	at, next := int(dir.Fd()), name+".new"
	// Remove leftovers of a crash. A new file cannot be another user's link, and has
	// the right permissions.
	if err := unix.Unlinkat(at, next, 0); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove %s: %w", next, err)
	}
	fd, err := unix.Openat(at, next, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return fmt.Errorf("create %s: %w", next, err)
	}
	f := os.NewFile(uintptr(fd), next)
	// Sync the content before the file is renamed.
	err = errors.Join(c.save(f, now), f.Sync(), f.Close())
	if err == nil {
		err = unix.Renameat(at, next, at, name)
	}
	if err != nil {
		return errors.Join(err, unix.Unlinkat(at, next, 0))
	}
	return dir.Sync()
}

// LoadFile loads the file at path ([Cache.Load]). A missing file is not an error, as at the
// first start.
//
// A file that another user could have written is refused: path has to be a regular file and
// not a link, owned by root or the process's own user, and not writable by group or others.
// Opening it never blocks.
func (c *Cache) LoadFile(path string, now time.Time) (n int, err error) {
	f, err := openOwn(path)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err == nil {
		defer f.Close()
		n, err = c.load(f, now)
	}
	if err != nil {
		return n, fmt.Errorf("load the cache from %s: %w", path, err)
	}
	return n, nil
}

// openOwn opens a file if only root and the process's own user can have written it.
func openOwn(path string) (*os.File, error) {
	// O_NONBLOCK, because opening a named pipe would wait for a writer.
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	if errors.Is(err, unix.ELOOP) {
		return nil, errors.New("it is a symbolic link: use the path of the file itself")
	}
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), path)
	var st unix.Stat_t
	if err = unix.Fstat(fd, &st); err == nil {
		err = checkFile(&st, uint32(os.Geteuid()))
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// checkFile returns an error if a user other than root and euid can have written the file.
func checkFile(st *unix.Stat_t, euid uint32) error {
	switch {
	case st.Mode&unix.S_IFMT != unix.S_IFREG:
		return errors.New("it is not a regular file: " + fix)
	case st.Uid != 0 && st.Uid != euid:
		return fmt.Errorf("it belongs to user %d: %s", st.Uid, fix)
	case st.Mode&0o022 != 0:
		return fmt.Errorf("group or others can write it (mode %04o): %s", st.Mode&0o7777, fix)
	}
	return nil
}

// maxLinks limits the symbolic links in a path, as in the kernel (MAXSYMLINKS).
const maxLinks = 40

// openDir opens a directory if no user other than root and the process's own can replace
// it or a part of its path.
func openDir(path string) (*os.File, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return nil, err
	}
	at, rest := "/", strings.Split(path, "/")
	for links := 0; len(rest) > 0; {
		name := rest[0]
		rest = rest[1:]
		if name == "" || name == "." {
			continue
		}
		if name == ".." { // at has no links, so this is its parent
			at = filepath.Dir(at)
			continue
		}
		target, err := checkStep(at, name)
		switch {
		case err != nil:
			return nil, err
		case target == "":
			at = filepath.Join(at, name)
			continue
		}
		if links++; links > maxLinks {
			return nil, unix.ELOOP
		}
		if filepath.IsAbs(target) {
			at = "/"
		}
		rest = append(strings.Split(target, "/"), rest...)
	}
	fd, err := unix.Open(at, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: at, Err: err}
	}
	return os.NewFile(uintptr(fd), at), nil
}

// checkStep checks that no other user can replace name in the directory dir. If name is a
// symbolic link, it returns the target.
func checkStep(dir, name string) (target string, err error) {
	var st unix.Stat_t
	if err := unix.Lstat(dir, &st); err != nil {
		return "", &fs.PathError{Op: "lstat", Path: dir, Err: err}
	}
	if err := checkDir(&st, uint32(os.Geteuid()), uint32(os.Getegid())); err != nil {
		return "", fmt.Errorf("%s: %w: use a file below directories owned by root or user %d", dir, err, os.Geteuid())
	}
	path := filepath.Join(dir, name)
	if err := unix.Lstat(path, &st); err != nil {
		return "", &fs.PathError{Op: "lstat", Path: path, Err: err}
	}
	if st.Mode&unix.S_IFMT != unix.S_IFLNK {
		return "", nil
	}
	if st.Uid != 0 && st.Uid != uint32(os.Geteuid()) {
		return "", fmt.Errorf("%s is a symbolic link of user %d: use a path without it", path, st.Uid)
	}
	return os.Readlink(path)
}

// checkDir returns an error if a user other than root and euid could replace files in a
// directory. The process's own group, which often has only that user, may have write
// permission. In a sticky directory, such as /tmp, users can replace only their own files.
func checkDir(st *unix.Stat_t, euid, egid uint32) error {
	sticky := st.Mode&unix.S_ISVTX != 0
	switch {
	case st.Uid != 0 && st.Uid != euid:
		return fmt.Errorf("it belongs to user %d, who could replace it", st.Uid)
	case st.Mode&0o002 != 0 && !sticky:
		return fmt.Errorf("all users can write to it (mode %04o)", st.Mode&0o7777)
	case st.Mode&0o020 != 0 && !sticky && st.Gid != 0 && st.Gid != egid:
		return fmt.Errorf("group %d can write to it (mode %04o)", st.Gid, st.Mode&0o7777)
	}
	return nil
}
