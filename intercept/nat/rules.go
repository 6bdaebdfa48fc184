// SPDX-License-Identifier: Apache-2.0

package nat

import (
	"net"
	"net/netip"
	"reflect"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
)

// tableSuffix ends the names of the tables; the instance's name comes before it.
const tableSuffix = "_nat"

func tableName(instance string) string { return instance + tableSuffix }

// instanceOf returns the instance that a table is named after.
func instanceOf(table *nftables.Table) (string, bool) {
	name, ok := strings.CutSuffix(table.Name, tableSuffix)
	ok = ok && (name == "sotto" || strings.HasPrefix(name, "sotto-")) &&
		(table.Family == nftables.TableFamilyIPv4 || table.Family == nftables.TableFamilyIPv6)
	return name, ok
}

// isOwn reports whether a table is of this or of another instance.
func isOwn(table *nftables.Table) bool {
	_, ok := instanceOf(table)
	return ok
}

// priority is the lowest that the kernel accepts for a nat chain: connection tracking
// has -200. It orders nat chains among each other only; all of them are consulted at
// the point where the kernel translates addresses (nf_nat_inet_fn).
var priority = nftables.ChainPriorityRef(-199)

// ownChains are the chains of a table. Forwarded packets pass prerouting, those of the
// host's own sockets output.
var ownChains = []struct {
	name string
	hook *nftables.ChainHook
}{
	{"prerouting", nftables.ChainHookPrerouting},
	{"output", nftables.ChainHookOutput},
}

// tableRules is what the table of one family consists of.
type tableRules struct {
	prefix netip.Prefix
	table  *nftables.Table
	exprs  []expr.Any // of the one rule that each chain has
}

// Where the destination address is in an IPv4 and an IPv6 header.
const (
	offDestination4 = 16
	offDestination6 = 24
)

func newTableRules(name string, p netip.Prefix) tableRules {
	fam, offset := nftables.TableFamilyIPv6, uint32(offDestination6)
	if p.Addr().Is4() {
		fam, offset = nftables.TableFamilyIPv4, offDestination4
	}
	size := uint32(p.Addr().BitLen() / 8)
	destination := func() expr.Any {
		return &expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: size}
	}
	return tableRules{
		prefix: p,
		table:  &nftables.Table{Name: name, Family: fam},
		// As nft(8) has it: ip daddr PREFIX dnat to ip daddr
		exprs: []expr.Any{
			destination(),
			&expr.Bitwise{
				SourceRegister: 1, DestRegister: 1, Len: size,
				Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen()), Xor: make([]byte, size),
			},
			&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: p.Masked().Addr().AsSlice()},
			destination(),
			&expr.NAT{Type: expr.NATTypeDestNAT, Family: uint32(fam), RegAddrMin: 1, RegAddrMax: 1},
		},
	}
}

func (r *tableRules) family() nftables.TableFamily { return r.table.Family }

// write queues the table, in place of the one that exists. The kernel puts the new
// chains into effect before it removes the old ones.
func (r *tableRules) write(conn *nftables.Conn, exists bool) {
	if exists {
		conn.DelTable(r.table)
	}
	conn.AddTable(r.table)
	accept := nftables.ChainPolicyAccept
	for _, own := range ownChains {
		chain := conn.AddChain(&nftables.Chain{
			Table: r.table, Name: own.name, Type: nftables.ChainTypeNAT,
			Hooknum: own.hook, Priority: priority, Policy: &accept,
		})
		conn.AddRule(&nftables.Rule{Table: r.table, Chain: chain, Exprs: r.exprs})
	}
}

// complete reports whether the table that exists is as write makes it.
func (r *tableRules) complete(conn *nftables.Conn, rs *ruleset) bool {
	chains := rs.chainsOf(r.table)
	if rs.dormant(r.table) || len(chains) != len(ownChains) {
		return false
	}
	for _, own := range ownChains {
		c := chains[own.name]
		if c == nil || c.Type != nftables.ChainTypeNAT || c.Hooknum == nil || *c.Hooknum != *own.hook ||
			c.Priority == nil || *c.Priority != *priority || c.Policy == nil || *c.Policy != nftables.ChainPolicyAccept {
			return false
		}
		rules, err := conn.GetRules(r.table, c)
		if err != nil || len(rules) != 1 || !reflect.DeepEqual(rules[0].Exprs, r.exprs) {
			return false
		}
	}
	return true
}
