// SPDX-License-Identifier: Apache-2.0

// Package privdrop drops the privileges that a process no longer needs: capabilities, the
// ability to gain new ones, and system calls that a DNS daemon does not need. This applies
// to all threads and cannot be undone.
package privdrop

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
	"kernel.org/pub/linux/libs/security/libcap/cap"
)

// Apply drops all capabilities except those in keep (such as "CAP_NET_ADMIN"), sets
// no_new_privs, and makes the system calls in [Unused] and deny fail with EPERM, on all
// threads. A capability in keep that the process lacks is ignored. The result is visible
// in /proc/PID/status.
func Apply(keep []string, deny ...uint32) error {
	if _, err := cap.Prctlw(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0, 0); err != nil { // on all threads
		return fmt.Errorf("drop privileges: set no_new_privs: %w", err)
	}
	if err := filter(append(Unused(), deny...)); err != nil {
		return fmt.Errorf("drop privileges: %w", err)
	}
	if err := dropCapabilities(keep); err != nil {
		return fmt.Errorf("drop privileges: drop capabilities: %w", err)
	}
	return nil
}

// dropCapabilities drops all capabilities except those in keep.
func dropCapabilities(keep []string) error {
	var kept []cap.Value
	for _, name := range keep {
		v, err := cap.FromName(strings.ToLower(name))
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		kept = append(kept, v)
	}
	have := cap.GetProc()
	canSetBounding, err := have.GetFlag(cap.Effective, cap.SETPCAP)
	if err != nil {
		return err
	}
	// Without CAP_SETPCAP the bounding set stays as it is. It matters only for programs
	// that the process executes, and no_new_privs prevents them from gaining anything.
	if canSetBounding {
		var errs []error
		for v := range cap.MaxBits() {
			if !slices.Contains(kept, v) {
				errs = append(errs, cap.DropBound(v))
			}
		}
		if err := errors.Join(errs...); err != nil {
			return err
		}
	}
	if err := cap.ResetAmbient(); err != nil && !errors.Is(err, unix.EINVAL) {
		return err
	}
	set := cap.NewSet()
	for _, v := range kept {
		has, err := have.GetFlag(cap.Permitted, v)
		if err != nil {
			return err
		}
		if has {
			if err := errors.Join(set.SetFlag(cap.Permitted, true, v), set.SetFlag(cap.Effective, true, v)); err != nil {
				return err
			}
		}
	}
	return set.SetProc()
}

// Held returns the capabilities of the process in text form, for logs.
func Held() string { return cap.GetProc().String() }
