// SPDX-License-Identifier: Apache-2.0

package names

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// maxFile limits the files that are read. The state of a thousand containers has about 1 MiB.
const maxFile = 8 << 20

// opener opens a file or directory below some directory for reading, without waiting for the
// writer of a pipe.
type opener func(name string) (*os.File, error)

// system opens files of the system, below the directory root.
func system(root string) opener {
	return func(name string) (*os.File, error) {
		return os.OpenFile(filepath.Join(root, name), os.O_RDONLY|unix.O_NONBLOCK, 0)
	}
}

// within opens files of a user. Links must not point out of root.
func within(root *os.Root) opener {
	return func(name string) (*os.File, error) {
		return root.OpenFile(name, os.O_RDONLY|unix.O_NONBLOCK, 0)
	}
}

// readFile reads a regular file.
func readFile(open opener, name string) ([]byte, error) {
	f, err := open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() {
		return nil, errors.Join(err, fmt.Errorf("%s is not a regular file", name))
	}
	text, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err == nil && len(text) > maxFile {
		err = fmt.Errorf("%s is larger than %d bytes", name, maxFile)
	}
	return text, err
}

// readJSON reads a regular file with JSON.
func readJSON(open opener, name string, to any) error {
	text, err := readFile(open, name)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(text, to); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return nil
}

// list returns the names in a directory.
func list(open opener, dir string) ([]string, error) {
	f, err := open(dir)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return f.Readdirnames(-1)
}

// find returns the first result of match for the names in a directory, or "".
func find(open opener, dir string, match func(name string) string) (string, error) {
	f, err := open(dir)
	if err != nil {
		return "", err
	}
	defer f.Close()
	for {
		names, err := f.Readdirnames(256)
		for _, name := range names {
			if found := match(name); found != "" {
				return found, nil
			}
		}
		if err == io.EOF {
			return "", nil
		}
		if err != nil {
			return "", err
		}
	}
}

// homeOf returns the home directory of a user from /etc/passwd. Other sources of users may need
// the network.
func homeOf(open opener, uid string) (string, error) {
	text, err := readFile(open, "etc/passwd")
	if err != nil {
		return "", err
	}
	for lines := bufio.NewScanner(bytes.NewReader(text)); lines.Scan(); {
		if f := strings.Split(lines.Text(), ":"); len(f) > 5 && f[2] == uid && strings.HasPrefix(f[5], "/") {
			return f[5], nil
		}
	}
	return "", fmt.Errorf("user %s is not in /etc/passwd", uid)
}
