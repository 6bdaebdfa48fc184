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

// tableSuffix follows the instance's name in the name of a table.
const tableSuffix = "_nat"

func tableName(instance string) string { return instance + tableSuffix }

// instanceOf returns the instance that a table is named after.
func instanceOf(table *nftables.Table) (string, bool) {
	name, ok := strings.CutSuffix(table.Name, tableSuffix)
	ok = ok && (name == "sotto" || strings.HasPrefix(name, "sotto-")) &&
		(table.Family == nftables.TableFamilyIPv4 || table.Family == nftables.TableFamilyIPv6)
	return name, ok
}

// isOwn reports whether a table belongs to this or another instance.
func isOwn(table *nftables.Table) bool {
	_, ok := instanceOf(table)
	return ok
}

// priority is the lowest one that the kernel accepts for a nat chain: that of connection
// tracking is -200. It only orders nat chains among each other; the kernel runs all of them
// when it translates addresses (nf_nat_inet_fn).
var priority = nftables.ChainPriorityRef(-199)

// ownChains are the chains of a table. Forwarded packets pass prerouting, packets of the
// host's own sockets pass output.
var ownChains = []struct {
	name string
	hook *nftables.ChainHook
}{
	{"prerouting", nftables.ChainHookPrerouting},
	{"output", nftables.ChainHookOutput},
}

// tableRules is the content of the table of one family.
type tableRules struct {
	prefix netip.Prefix
	table  *nftables.Table
	exprs  []expr.Any // of the only rule in each chain
}

// Offsets of the destination address in IPv4 and IPv6 headers.
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
		// In the syntax of nft(8): ip daddr PREFIX dnat to ip daddr
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

// write queues the table, replacing the existing one. The kernel activates the new chains
// before it removes the old ones.
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

// complete reports whether the existing table is what write makes.
func (r *tableRules) complete(conn *nftables.Conn, rs *ruleset) bool {
	chains := rs.chainsOf(r.table)
	if rs.hasFlags(r.table) || len(chains) != len(ownChains) {
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
