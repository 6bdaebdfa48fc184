// SPDX-License-Identifier: Apache-2.0

// Package privdrop takes from a process what it does not need any more: capabilities,
// the right to gain others, and system calls that no DNS daemon has a use for. It holds
// for all threads, and there is no way back.
package privdrop

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
	"kernel.org/pub/linux/libs/security/libcap/cap"
)

// Apply leaves the process with the capabilities named, as far as it has them (as in
// "CAP_NET_ADMIN"), on all threads, with no_new_privs, and without the system calls in
// [Unused] and those given: they answer EPERM. What it holds is said in the process's
// status (/proc/PID/status).
func Apply(keep []string, deny ...uint32) error {
	if _, err := cap.Prctlw(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0, 0); err != nil { // on all threads
		return fmt.Errorf("confine: set no_new_privs: %w", err)
	}
	if err := filter(append(Unused(), deny...)); err != nil {
		return fmt.Errorf("confine: %w", err)
	}
	if err := drop(keep); err != nil {
		return fmt.Errorf("confine: drop capabilities: %w", err)
	}
	return nil
}

// drop leaves at most the capabilities named.
func drop(keep []string) error {
	var kept []cap.Value
	for _, name := range keep {
		v, err := cap.FromName(strings.ToLower(name))
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		kept = append(kept, v)
	}
	have := cap.GetProc()
	mayBound, err := have.GetFlag(cap.Effective, cap.SETPCAP)
	if err != nil {
		return err
	}
	// Without that capability the bounding set stays: it is about programs that the
	// process would start, and there it gains nothing (no_new_privs).
	if mayBound {
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

// Held are the capabilities that the process has, for a log.
func Held() string { return cap.GetProc().String() }
