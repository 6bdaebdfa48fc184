// SPDX-License-Identifier: Apache-2.0

package pathtest

import (
	"fmt"
	"net/netip"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"

	"sotto/intercept/filters"
)

// maxBlocks limits the blocks in a report.
const maxBlocks = 4

// ruleset is what filters the packets of one network namespace.
type ruleset struct {
	chains           []filters.Chain
	legacy4, legacy6 bool
}

// program is a program on a cgroup above the test's.
type program struct {
	filters.Program
	drops [2]verdict // packets of IPv4 and IPv6
}

// evidence holds the observations about lost queries from one network namespace.
type evidence struct {
	Config
	failures []failure
	pid      int     // of a process in the namespace; 0 for the host's
	host     ruleset // of the host's namespace
	inside   ruleset // of the namespace, unless it is the host's
	programs []program
}

// place is a netfilter hook in the host's namespace or in that of the queries.
type place struct {
	inside bool
	hook   filters.Hook
}

// blocks returns what drops the queries, or may do so, the most probable first.
func (e evidence) blocks() []Block {
	var out []Block
	add := func(more []Block) {
		for _, b := range more {
			if !slices.Contains(out, b) {
				out = append(out, b)
			}
		}
	}
	families := e.failedFamilies()
	for _, v6 := range families {
		add(e.programBlocks(v6, yes))
	}
	for _, v6 := range families {
		add(e.chainBlocks(v6))
	}
	for _, v6 := range families {
		add(e.programBlocks(v6, unknown))
	}
	for _, v6 := range families {
		add(e.legacyBlocks(v6))
	}
	if len(out) == 0 {
		out = []Block{e.noFilter()}
	}
	return out[:min(len(out), maxBlocks)]
}

// failedFamilies returns the families of the failures: false for IPv4, true for IPv6.
func (e evidence) failedFamilies() (v6 []bool) {
	for _, family := range []bool{false, true} {
		if len(e.of(family)) > 0 {
			v6 = append(v6, family)
		}
	}
	return v6
}

// of returns the failures of a family.
func (e evidence) of(v6 bool) (out []failure) {
	for _, f := range e.failures {
		if f.v6 == v6 {
			out = append(out, f)
		}
	}
	return out
}

// places returns where the queries of a family can have been dropped, by the errors. The kernel
// reports EPERM for a datagram that it drops on output, and nothing for the SYN of a connection.
func (e evidence) places(v6 bool) []place {
	onHost := e.pid == 0
	udp := slices.IndexFunc(e.of(v6), func(f failure) bool { return !f.tcp })
	if udp >= 0 {
		switch kind := e.of(v6)[udp].kind(); {
		case kind == denied:
			return []place{{!onHost, filters.Output}}
		case kind == lost && onHost:
			return []place{{false, filters.Input}}
		case kind == lost:
			return []place{{false, filters.Forward}, {true, filters.Input}}
		}
	}
	if onHost {
		return []place{{false, filters.Output}, {false, filters.Input}}
	}
	return []place{{false, filters.Forward}, {true, filters.Output}, {true, filters.Input}}
}

// chainBlocks returns the chains of nftables that may drop the queries of a family.
func (e evidence) chainBlocks(v6 bool) (out []Block) {
	for _, policyDrop := range []bool{true, false} {
		for _, p := range e.places(v6) {
			rules := e.host
			if p.inside {
				rules = e.inside
			}
			for _, c := range rules.chains {
				if c.Hook == p.hook && c.PolicyDrop == policyDrop && c.Covers(v6) {
					out = append(out, Block{e.chainText(c, p.inside), e.chainFix(c, p.inside, v6)})
				}
			}
		}
	}
	return out
}

func (e evidence) chainText(c filters.Chain, inside bool) string {
	why := "has rules that drop"
	if c.PolicyDrop {
		why = "policy drop"
	}
	return fmt.Sprintf("nftables chain %s %s %s%s (%s)", c.Family, c.Table, c.Name, e.where(inside), why)
}

// where names the network namespace of a filter.
func (e evidence) where(inside bool) string {
	if inside {
		return fmt.Sprintf(" in the network namespace of process %d", e.pid)
	}
	return ""
}

// plainName matches names that mean nothing else to a shell or to nft. Others, which an
// untrusted container can choose, are not put into commands.
var plainName = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_.@:/-]*$`) })

// escapedName matches names of units in which systemd has escaped characters.
var escapedName = sync.OnceValue(func() *regexp.Regexp {
	return regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_.@:-]*(\\x[0-9a-f]{2}[A-Za-z0-9_.@:-]*)+$`)
})

func (e evidence) chainFix(c filters.Chain, inside, v6 bool) string {
	if !plainName().MatchString(c.Table) || !plainName().MatchString(c.Name) {
		return ""
	}
	insert := fmt.Sprintf("nft insert rule %s %s %s ", c.Family, c.Table, c.Name)
	if inside { // where Sotto's interface does not exist
		return fmt.Sprintf("nsenter --net=/proc/%d/ns/net ", e.pid) + insert + e.match(c.Hook, v6) + " accept"
	}
	in, out := fmt.Sprintf("iifname %q accept", e.Link), fmt.Sprintf("oifname %q accept", e.Link)
	switch c.Hook {
	case filters.Input:
		return insert + in
	case filters.Output:
		return insert + out
	}
	return join(insert+out, insert+in)
}

// match matches packets to virtual addresses, or on input from them.
func (e evidence) match(h filters.Hook, v6 bool) string {
	family, direction := "ip", "daddr"
	if v6 {
		family = "ip6"
	}
	if h == filters.Input {
		direction = "saddr"
	}
	prefix := slices.IndexFunc(e.Prefixes, func(p netip.Prefix) bool { return p.Addr().Is6() == v6 })
	if prefix < 0 {
		return ""
	}
	return fmt.Sprintf("%s %s %s", family, direction, e.Prefixes[prefix])
}

// programBlocks returns the units whose programs drop packets of a family, or with the verdict
// unknown may do so.
func (e evidence) programBlocks(v6 bool, v verdict) (out []Block) {
	family := 0
	if v6 {
		family = 1
	}
	for _, p := range e.programs {
		if p.drops[family] != v {
			continue
		}
		unit := filepath.Base(p.Dir)
		switch p.Setting {
		case filters.IPAddress:
			out = append(out, Block{"IPAddressAllow= and IPAddressDeny= of " + unit, unitFix(unit, "IPAddressAllow="+e.prefixes())})
		case filters.Interfaces:
			out = append(out, Block{"RestrictNetworkInterfaces= of " + unit, unitFix(unit, "RestrictNetworkInterfaces="+e.Link)})
		default:
			out = append(out, Block{fmt.Sprintf("the eBPF program %q on the cgroup %s", p.Name, p.Dir), ""})
		}
	}
	return out
}

func (e evidence) prefixes() string {
	var all []string
	for _, p := range e.Prefixes {
		all = append(all, p.String())
	}
	return strings.Join(all, " ")
}

// unitFix returns the drop-in that adds a line to a unit. systemd adds it to the lines that the
// unit has.
func unitFix(unit, line string) string {
	quoted := unit
	switch {
	case escapedName().MatchString(unit):
		quoted = "'" + unit + "'"
	case !plainName().MatchString(unit):
		return ""
	}
	section := "[Service]"
	switch filepath.Ext(unit) {
	case ".slice":
		section = "[Slice]"
	case ".scope":
		section = "[Scope]"
	}
	return fmt.Sprintf("systemctl edit %s, with %s %s", quoted, section, line)
}

// legacyBlocks returns the tables of iptables-legacy that may drop the queries of a family.
func (e evidence) legacyBlocks(v6 bool) (out []Block) {
	seen := make(map[bool]bool)
	for _, p := range e.places(v6) {
		rules := e.host
		if p.inside {
			rules = e.inside
		}
		if v6 && !rules.legacy6 || !v6 && !rules.legacy4 || seen[p.inside] {
			continue
		}
		seen[p.inside] = true
		command := "iptables-legacy"
		if v6 {
			command = "ip6tables-legacy"
		}
		fix := ""
		if !p.inside {
			fix = e.legacyFix(command, p.hook)
		}
		out = append(out, Block{fmt.Sprintf("the table filter of %s%s (if it drops)", command, e.where(p.inside)), fix})
	}
	return out
}

func (e evidence) legacyFix(command string, h filters.Hook) string {
	in, out := " -i "+e.Link+" -j ACCEPT", " -o "+e.Link+" -j ACCEPT"
	switch h {
	case filters.Input:
		return command + " -I INPUT" + in
	case filters.Output:
		return command + " -I OUTPUT" + out
	}
	return join(command+" -I FORWARD"+out, command+" -I FORWARD"+in)
}

// noFilter is the block if no filter was found.
func (e evidence) noFilter() Block {
	switch {
	case slices.ContainsFunc(e.failures, func(f failure) bool { return f.kind() == noSlot }):
		return Block{What: "no virtual address is free for the cgroup"}
	case e.pid == 0:
		return Block{What: "unknown: no packet filter was found"}
	}
	return Block{What: "unknown: no packet filter was found; packets of the namespace may leave by another way than the host's (a macvlan, a network card of its own)"}
}
