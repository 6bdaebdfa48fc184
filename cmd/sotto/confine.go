// SPDX-License-Identifier: Apache-2.0

package main

import (
	"log/slog"

	"sotto/intercept"
	"sotto/internal/privdrop"
)

// What each verb keeps once it is set up. docs/SECURITY.md says what for.
var (
	keepRun  = []string{"CAP_NET_ADMIN", "CAP_BPF", "CAP_SYS_ADMIN", "CAP_DAC_READ_SEARCH"}
	keepExec = append([]string{"CAP_KILL", "CAP_DAC_OVERRIDE"}, keepRun...)
)

// deniedTo returns the system calls that a process with a seal is denied besides: those
// that mount, if its file system is to stay as its service manager made it.
func deniedTo(inst *intercept.Instance) []uint32 {
	if inst.Mounts() {
		return nil
	}
	return privdrop.Mounts()
}

// confinement takes from this process what it needs no more; [privdrop.Apply].
type confinement func(keep []string, deny ...uint32) error

// confine is called when everything is set up. That it fails is no reason not to serve:
// what is promised of the queries holds all the same.
func (e *env) confine(log *slog.Logger, keep []string, deny ...uint32) {
	if e.confinement == nil {
		return
	}
	if err := e.confinement(keep, deny...); err != nil {
		log.Warn("cannot give up the privileges that are not needed any more", "err", err)
		return
	}
	log.Debug("gave up what is not needed any more", "capabilities", privdrop.Held())
}
