// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"log/slog"

	"sotto/intercept"
	"sotto/internal/config"
	"sotto/internal/privdrop"
)

// Capabilities that `run` and `exec` keep. docs/SECURITY.md explains what each is for.
var (
	RunCapabilities  = []string{"CAP_NET_ADMIN", "CAP_BPF", "CAP_SYS_ADMIN", "CAP_DAC_READ_SEARCH"}
	ExecCapabilities = append([]string{"CAP_KILL", "CAP_DAC_OVERRIDE"}, RunCapabilities...)
)

// serveCapabilities returns those that `serve` keeps: none, except for firewall marks. A mark that
// a reload adds needs a restart.
func serveCapabilities(p config.Plan) []string {
	for _, g := range p.Groups {
		if g.Network.Outbound.Mark != 0 {
			return []string{"CAP_NET_ADMIN"}
		}
	}
	return nil
}

// deniedCalls returns the system calls that a process with a seal does not need: those that
// mount, unless the instance mounts file systems itself.
func deniedCalls(inst *intercept.Instance) []uint32 {
	if inst.Mounts() {
		return nil
	}
	return privdrop.Mounts()
}

// dropPrivileges is called when everything is set up. An error is only logged, because the
// seal does not depend on it.
func (o Options) dropPrivileges(log *slog.Logger, l privdrop.Limits) {
	if o.DropPrivileges == nil {
		return
	}
	if err := o.DropPrivileges(l); err != nil {
		log.Warn("cannot drop privileges", "err", err)
		return
	}
	log.Debug("dropped privileges", "capabilities", privdrop.Held())
}
