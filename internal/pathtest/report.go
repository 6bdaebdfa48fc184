// SPDX-License-Identifier: Apache-2.0

package pathtest

import "net/netip"

// Config is what the child tests.
type Config struct {
	Cgroups  []string       // directories of the sealed cgroups
	Exclude  []string       // directories of cgroups below them that are not sealed
	Prefixes []netip.Prefix // networks of the virtual addresses
	Port     uint16         // a sealed port
	Link     string         // Sotto's interface on the host
}

// Report is a result of the child.
type Report struct {
	Note string `json:",omitempty"` // if not empty, the report only has this remark for the debug log

	Cgroup    string  `json:",omitempty"` // directory of the cgroup whose queries are lost
	Netns     string  `json:",omitempty"` // their network namespace, unless it is the host's
	Transport string  `json:",omitempty"` // such as "udp4, tcp4"
	Err       string  `json:",omitempty"`
	Blocks    []Block `json:",omitempty"` // what may drop them, the most probable first
}

// Block is a filter that drops queries, or may do so.
type Block struct {
	What string
	Fix  string // commands, or settings to add; empty if none is known
}

// Texts returns what drops the queries and how to change it, each in one line.
func (r Report) Texts() (what, fix string) {
	last := ""
	for _, b := range r.Blocks {
		if b.What != last { // or else it needs a rule for each family
			what = join(what, b.What)
		}
		last = b.What
		fix = join(fix, b.Fix)
	}
	return what, fix
}

// join separates with a semicolon, as a shell does.
func join(a, b string) string {
	if a == "" || b == "" {
		return a + b
	}
	return a + "; " + b
}
