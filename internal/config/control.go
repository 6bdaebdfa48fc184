// SPDX-License-Identifier: Apache-2.0

package config

import (
	"errors"
	"os/user"
	"path/filepath"
	"strconv"
)

// maxSocketPath is the longest path of a Unix socket (sockaddr_un).
const maxSocketPath = 107

// checkSocket validates the path of the Unix socket that the setting called key names, if it names one.
// A relative one would be another socket for a client in another directory.
func (s *Settings) checkSocket(key, path string) error {
	switch {
	case path != "" && !filepath.IsAbs(path):
		return s.invalidf(key, "%q is not an absolute path: write it as /run/sotto/NAME", path)
	case len(path) > maxSocketPath:
		return s.invalidf(key, "the path of a Unix socket has at most %d bytes", maxSocketPath)
	}
	return nil
}

// controlGroup returns the ID of the group that control-group names, or 0 if it names none.
func (s *Settings) controlGroup() (int, error) {
	name := s.ControlGroup
	if name == "" {
		return 0, nil
	}
	id, err := strconv.ParseUint(name, 10, 31)
	if err != nil {
		g, err := user.LookupGroup(name)
		if errors.As(err, new(user.UnknownGroupError)) {
			return 0, s.invalidf("control-group", "this machine has no group %q: create it with 'groupadd --system NAME', or name another one", name)
		}
		if err != nil {
			return 0, s.At("control-group", err)
		}
		if id, err = strconv.ParseUint(g.Gid, 10, 31); err != nil {
			return 0, s.At("control-group", err)
		}
	}
	if id == 0 {
		return 0, s.invalidf("control-group", "%q is the group of root: name another one", name)
	}
	return int(id), nil
}
