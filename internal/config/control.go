// SPDX-License-Identifier: Apache-2.0

package config

import (
	"errors"
	"os/user"
	"strconv"
)

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
