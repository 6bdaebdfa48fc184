// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"strconv"
	"syscall"
)

// runAs makes cmd run as the user named, with all its groups and with HOME, USER
// and LOGNAME set to match. An empty name changes nothing.
func runAs(cmd *exec.Cmd, name string) error {
	if name == "" {
		return nil
	}
	u, err := user.Lookup(name)
	if err != nil {
		if u, err = user.LookupId(name); err != nil {
			return usagef("user %q: this machine has no such user", name)
		}
	}
	ids, err := u.GroupIds()
	if err != nil {
		return fmt.Errorf("find the groups of user %s: %w", u.Username, err)
	}
	cred := &syscall.Credential{}
	if cred.Uid, err = parseID(u.Uid); err != nil {
		return err
	}
	if cred.Gid, err = parseID(u.Gid); err != nil {
		return err
	}
	for _, text := range ids {
		id, err := parseID(text)
		if err != nil {
			return err
		}
		cred.Groups = append(cred.Groups, id)
	}
	cmd.SysProcAttr.Credential = cred
	cmd.Env = append(os.Environ(), "HOME="+u.HomeDir, "USER="+u.Username, "LOGNAME="+u.Username)
	return nil
}

func parseID(text string) (uint32, error) {
	n, err := strconv.ParseUint(text, 10, 32)
	if err != nil {
		return 0, fmt.Errorf("read the user database: id %q: %w", text, err)
	}
	return uint32(n), nil
}
