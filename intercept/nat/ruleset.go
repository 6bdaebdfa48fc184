// SPDX-License-Identifier: Apache-2.0

package nat

import (
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/google/nftables"
)

// ruleset contains all nftables tables and chains of the host.
type ruleset struct {
	tables []*nftables.Table
	chains []*nftables.Chain
}

// chainKey identifies a chain in the namespace.
type chainKey struct {
	family       nftables.TableFamily
	table, chain string
}

func keyOf(c *nftables.Chain) chainKey { return chainKey{c.Table.Family, c.Table.Name, c.Name} }

func readRuleset(conn *nftables.Conn) (*ruleset, error) {
	tables, err := conn.ListTables()
	if err != nil {
		return nil, fmt.Errorf("list nftables tables: %w", err)
	}
	rs := &ruleset{tables: tables}
	if len(tables) == 0 {
		return rs, nil
	}
	if rs.chains, err = conn.ListChains(); err != nil {
		return nil, fmt.Errorf("list nftables chains: %w", err)
	}
	return rs, nil
}

// foreign reports whether a chain is a nat chain of another program.
func foreign(c *nftables.Chain) bool {
	return c.Type == nftables.ChainTypeNAT && !isOwn(c.Table)
}

// foreignChains returns the nat chains of other programs.
func (rs *ruleset) foreignChains() map[chainKey]bool {
	keys := make(map[chainKey]bool)
	for _, c := range rs.chains {
		if foreign(c) {
			keys[keyOf(c)] = true
		}
	}
	return keys
}

// covers reports whether a chain applies to packets of a family.
func covers(c *nftables.Chain, fam nftables.TableFamily) bool {
	return c.Table.Family == fam || c.Table.Family == nftables.TableFamilyINet
}

// translates reports whether another program has nat chains for a family, at any hook: the
// first nat chain makes the kernel track connections and run nat chains at all hooks.
func (rs *ruleset) translates(fam nftables.TableFamily) bool {
	return slices.ContainsFunc(rs.chains, func(c *nftables.Chain) bool { return foreign(c) && covers(c, fam) })
}

// hasSamePriority reports whether another program has a nat chain with Sotto's priority.
func (rs *ruleset) hasSamePriority(fam nftables.TableFamily) bool {
	return slices.ContainsFunc(rs.chains, func(c *nftables.Chain) bool {
		return foreign(c) && covers(c, fam) && c.Priority != nil && *c.Priority <= *priority
	})
}

// find returns the table of the host with that name and family, or nil.
func (rs *ruleset) find(table *nftables.Table) *nftables.Table {
	for _, t := range rs.tables {
		if t.Name == table.Name && t.Family == table.Family {
			return t
		}
	}
	return nil
}

func (rs *ruleset) has(table *nftables.Table) bool { return rs.find(table) != nil }

// hasFlags reports whether an existing table has a flag such as dormant, which disables it.
func (rs *ruleset) hasFlags(table *nftables.Table) bool { return rs.find(table).Flags != 0 }

// chainsOf returns the chains of a table by name.
func (rs *ruleset) chainsOf(table *nftables.Table) map[string]*nftables.Chain {
	chains := make(map[string]*nftables.Chain)
	for _, c := range rs.chains {
		if c.Table.Name == table.Name && c.Table.Family == table.Family {
			chains[c.Name] = c
		}
	}
	return chains
}

// readLegacy returns the families for which the calling thread's namespace has a nat table of
// iptables-legacy. nftables does not list those.
func readLegacy() map[nftables.TableFamily]bool {
	legacy := make(map[nftables.TableFamily]bool)
	for fam, name := range map[nftables.TableFamily]string{
		nftables.TableFamilyIPv4: "ip_tables_names", nftables.TableFamilyIPv6: "ip6_tables_names",
	} {
		text, err := os.ReadFile("/proc/thread-self/net/" + name)
		if err == nil && slices.Contains(strings.Fields(string(text)), "nat") { // no such file: no iptables-legacy
			legacy[fam] = true
		}
	}
	return legacy
}
