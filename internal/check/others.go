// SPDX-License-Identifier: Apache-2.0

package check

import (
	"context"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"

	"sotto/intercept/cgroup"
	"sotto/intercept/filters"
	"sotto/intercept/network"
	"sotto/intercept/others"
	"sotto/internal/daemon"
)

// programsOf collects programs of the sealed cgroups.
func programsOf(m *machine, list func(root, dir string) ([]others.Program, error)) ([]others.Program, error) {
	root, err := cgroup.Root()
	if err != nil {
		return nil, err
	}
	var out []others.Program
	for _, dir := range m.seal.Cgroups {
		found, err := list(root, dir)
		if err != nil {
			return nil, err
		}
		out = append(out, found...)
	}
	return out, nil
}

// checkPrograms finds programs of other software that change the destinations of sockets.
func checkPrograms(_ context.Context, m *machine) Result {
	const name = "programs of other software"
	if !m.root {
		return needsRoot(name)
	}
	switch {
	case m.noCgroup2:
		return needsCgroup2(name)
	case m.lackCaps:
		return needsCapabilities(name)
	}
	found, err := programsOf(m, others.AddressPrograms)
	switch {
	case err != nil:
		return skipped(name, "%v", err)
	case len(found) > 0:
		return warning(name, "make sure that it leaves port 53 alone, or detach it; 'bpftool cgroup tree' lists all",
			"%s: sockets of the seal may be connected elsewhere than Sotto redirects them", describePrograms(found))
	}
	return ok(name, "none changes the destinations of sockets")
}

// maxListed limits how many of a kind a result lists.
const maxListed = 4

// describePrograms lists each program once, with its hooks.
func describePrograms(found []others.Program) string {
	hooks := map[string][]string{}
	for _, p := range found {
		id := fmt.Sprintf("%q (ID %d) on the cgroup %s", p.Name, p.ID, p.Cgroup)
		if !slices.Contains(hooks[id], p.Hook) {
			hooks[id] = append(hooks[id], p.Hook)
		}
	}
	var texts []string
	for _, id := range slices.Sorted(maps.Keys(hooks)) {
		texts = append(texts, id+" at "+strings.Join(hooks[id], ", "))
	}
	return list(texts, "; ")
}

// list joins the first few texts.
func list(texts []string, separator string) string {
	if more := len(texts) - maxListed; more > 0 {
		return strings.Join(texts[:maxListed], separator) + fmt.Sprintf("%sand %d more", separator, more)
	}
	return strings.Join(texts, separator)
}

// checkFirewall finds packet filters that drop packets to virtual addresses. Rules can have any
// condition: whether they apply to Sotto shows the sealed query.
func checkFirewall(_ context.Context, m *machine) Result {
	const name = "firewall"
	if !m.root {
		return needsRoot(name)
	}
	if m.lackCaps {
		return needsCapabilities(name)
	}
	chains, err := filters.Chains()
	if err != nil {
		return warning(name, "", "%v", err)
	}
	if r := judgeChains(name, chains, m.path); r.State != OK || m.noCgroup2 {
		return r
	}
	found, err := programsOf(m, others.PacketPrograms)
	if err != nil {
		return skipped(name, "%v", err)
	}
	if units := filteredUnits(found); len(units) > 0 {
		p4, p6 := m.seal.Prefix4, m.seal.Prefix6
		if !p4.IsValid() || !p6.IsValid() {
			p4, p6 = network.DefaultPrefix4, network.DefaultPrefix6
		}
		return warning(name, fmt.Sprintf("systemctl edit UNIT, with [Service] IPAddressAllow=%s %s or RestrictNetworkInterfaces=%s0", p4, p6, daemon.InstanceName),
			"filters of systemd may drop the queries of %s", list(units, ", "))
	}
	return judgeChains(name, chains, m.path)
}

// judgeChains judges chains by the outcome of the sealed query.
func judgeChains(name string, chains []filters.Chain, path pathState) Result {
	var texts, fixes []string
	for _, c := range chains {
		if c.Hook == filters.Forward || path != pathBroken && !c.PolicyDrop {
			continue // most rules drop other packets
		}
		why := "has rules that drop"
		if c.PolicyDrop {
			why = "policy drop"
		}
		texts = append(texts, fmt.Sprintf("nftables chain %s %s %s (%s)", c.Family, c.Table, c.Name, why))
		direction := "oifname"
		if c.Hook == filters.Input {
			direction = "iifname"
		}
		fixes = append(fixes, fmt.Sprintf(`nft insert rule %s %s %s %s "%s*" accept`, c.Family, c.Table, c.Name, direction, daemon.InstanceName))
	}
	switch {
	case path == pathBroken && len(texts) > 0:
		return failed(name, list(fixes, "; "), "the sealed query was lost, probably dropped by %s", list(texts, ", "))
	case path == pathBroken:
		return warning(name, "look for other packet filters: iptables-legacy -S, bpftool net", "the sealed query was lost, and no filter of nftables drops")
	case path == pathUnknown && len(texts) > 0:
		return warning(name, list(fixes, "; "), "may drop packets to virtual addresses: %s; no sealed query was sent to find out", list(texts, ", "))
	case path == pathWorks && len(chains) > 0:
		return ok(name, "chains of nftables that drop packets: %d; the sealed query passed", len(chains))
	}
	return ok(name, "no filter found")
}

// systemdFilters start the names of the programs by which systemd filters packets of a unit.
var systemdFilters = []string{"sd_fw_", "sd_restrictif_"}

// filteredUnits returns the units with filters of systemd. Systemd's own units have them by
// default, and send no queries.
func filteredUnits(found []others.Program) (out []string) {
	for _, p := range found {
		unit := filepath.Base(p.Cgroup)
		isFilter := slices.ContainsFunc(systemdFilters, func(prefix string) bool { return strings.HasPrefix(p.Name, prefix) })
		if isFilter && !strings.HasPrefix(unit, "systemd-") && !slices.Contains(out, unit) {
			out = append(out, unit)
		}
	}
	return out
}
