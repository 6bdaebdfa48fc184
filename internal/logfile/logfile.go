// SPDX-License-Identifier: Apache-2.0

// Package logfile opens files that records are appended to, and that other programs rotate.
package logfile

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"
)

// mode is for new files: they show which names were queried.
const mode fs.FileMode = 0o600

// Append opens the file at path, which is created if it does not exist, to append to it.
// Opening never blocks, also if path is a pipe, and a symbolic link at path is refused.
func Append(path string) (*os.File, error) {
	f, err := os.OpenFile(path, unix.O_WRONLY|unix.O_APPEND|unix.O_CREAT|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, mode)
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, fs.ErrPermission):
		return nil, fmt.Errorf("%w: its directory must exist and belong to the user that Sotto runs as", err)
	case errors.Is(err, unix.ELOOP):
		return nil, fmt.Errorf("%w: it must not be a symbolic link", err)
	case errors.Is(err, unix.ENXIO):
		return nil, fmt.Errorf("%w: no program reads the pipe", err)
	}
	return f, err
}

// IsAt reports whether f is still the file at path: it was neither renamed nor removed.
func IsAt(f *os.File, path string) bool {
	mine, err := f.Stat()
	if err != nil {
		return false
	}
	there, err := os.Lstat(path)
	return err == nil && os.SameFile(mine, there)
}
