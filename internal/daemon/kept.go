// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"log/slog"
	"net/netip"
	"os"
	"strings"

	"sotto/intercept"
)

// resolvConf is the configuration of the C library's resolver.
const resolvConf = "/etc/resolv.conf"

// WarnUncovered logs the local resolvers in resolv.conf to which queries are left alone although
// their own queries are not sealed.
func WarnUncovered(cfg intercept.Config, log *slog.Logger) {
	if cfg.LocalResolvers != intercept.LocalKeep {
		return
	}
	text, err := os.ReadFile(resolvConf)
	if err != nil {
		return // the C library then asks 127.0.0.1, where usually nothing listens
	}
	found, err := intercept.UncoveredResolvers(cfg, ParseNameservers(string(text)))
	if err != nil {
		log.Debug("cannot check whether the seal covers the resolvers on this machine", "err", err)
		return
	}
	for _, u := range found {
		log.Warn("queries to a resolver on this machine are left alone, and its own queries leave in plain text: "+
			`set local-resolvers = "redirect", or seal its cgroup (cgroups, exclude)`, "nameserver", u.Addr, "cgroup", u.Cgroup)
	}
}

// ParseNameservers returns the nameservers of a resolv.conf.
func ParseNameservers(text string) []netip.Addr {
	var out []netip.Addr
	for line := range strings.Lines(text) {
		if f := strings.Fields(line); len(f) > 1 && f[0] == "nameserver" {
			if addr, err := netip.ParseAddr(f[1]); err == nil {
				out = append(out, addr)
			}
		}
	}
	return out
}
