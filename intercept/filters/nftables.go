// SPDX-License-Identifier: Apache-2.0

package filters

import (
	"errors"
	"fmt"
	"math/bits"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// Hook is a netfilter hook, with the name that nft(8) uses.
type Hook string

// The hooks at which the filters of a host drop packets.
const (
	Input   Hook = "input"
	Forward Hook = "forward"
	Output  Hook = "output"
)

// Chain is a base chain of nftables that may drop packets.
type Chain struct {
	Family      string // ip, ip6 or inet
	Table, Name string
	Hook        Hook
	PolicyDrop  bool // or else a rule drops or rejects packets
}

// Covers reports whether the chain applies to packets of a family.
func (c Chain) Covers(v6 bool) bool {
	return c.Family == "inet" || (c.Family == "ip6") == v6
}

var hooks = map[nftables.ChainHook]Hook{
	*nftables.ChainHookInput: Input, *nftables.ChainHookForward: Forward, *nftables.ChainHookOutput: Output,
}

var families = map[nftables.TableFamily]string{
	nftables.TableFamilyIPv4: "ip", nftables.TableFamilyIPv6: "ip6", nftables.TableFamilyINet: "inet",
}

// Chains returns the base chains that may drop packets in the calling thread's network
// namespace, those with the policy drop first. Without nftables there are none.
func Chains() ([]Chain, error) {
	conn, err := nftables.New(nftables.AsLasting())
	if err != nil {
		return nil, fmt.Errorf("open nftables connection: %w", err)
	}
	defer conn.CloseLasting()
	tables, err := conn.ListTables()
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EPROTONOSUPPORT) {
		return nil, nil // the kernel lacks nf_tables
	}
	if err != nil || len(tables) == 0 {
		return nil, err
	}
	all, err := conn.ListChains()
	if err != nil {
		return nil, fmt.Errorf("list nftables chains: %w", err)
	}
	r := ruleset{conn: conn, dormant: dormant(tables), drops: make(map[chainKey]bool)}
	var policy, rules []Chain
	for _, c := range all {
		chain, ok := r.examine(c)
		switch {
		case !ok:
		case chain.PolicyDrop:
			policy = append(policy, chain)
		case r.mayDrop(c.Table, c.Name):
			rules = append(rules, chain)
		}
	}
	return append(policy, rules...), nil
}

// ruleset reads the rules of chains, each once.
type ruleset struct {
	conn    *nftables.Conn
	dormant map[tableKey]bool
	drops   map[chainKey]bool
}

type tableKey struct {
	family nftables.TableFamily
	name   string
}

type chainKey struct {
	table tableKey
	name  string
}

func keyOf(t *nftables.Table) tableKey { return tableKey{t.Family, t.Name} }

// flagDormant is NFT_TABLE_F_DORMANT: the chains of the table are not active.
const flagDormant = 1

func dormant(tables []*nftables.Table) map[tableKey]bool {
	out := make(map[tableKey]bool)
	for _, t := range tables {
		// The library does not convert the flags from network byte order.
		if (t.Flags|bits.ReverseBytes32(t.Flags))&flagDormant != 0 {
			out[keyOf(t)] = true
		}
	}
	return out
}

// examine describes c, and reports false if c is not an active base chain at one of the hooks.
func (r *ruleset) examine(c *nftables.Chain) (Chain, bool) {
	family, ok := families[c.Table.Family]
	if !ok || c.Hooknum == nil || c.Type == nftables.ChainTypeNAT || r.dormant[keyOf(c.Table)] {
		return Chain{}, false
	}
	hook, ok := hooks[*c.Hooknum]
	return Chain{
		Family: family, Table: c.Table.Name, Name: c.Name, Hook: hook,
		PolicyDrop: c.Policy != nil && *c.Policy == nftables.ChainPolicyDrop,
	}, ok
}

// mayDrop reports whether a rule of the chain, or of one that it jumps to, drops or rejects
// packets. Rules that cannot be read count as ones that do.
func (r *ruleset) mayDrop(t *nftables.Table, name string) bool {
	key := chainKey{keyOf(t), name}
	if drops, ok := r.drops[key]; ok {
		return drops
	}
	r.drops[key] = false // the kernel refuses loops of jumps
	rules, err := r.conn.GetRules(t, &nftables.Chain{Table: t, Name: name})
	drops := err != nil
	for _, rule := range rules {
		for _, e := range rule.Exprs {
			drops = drops || r.exprDrops(t, e)
		}
	}
	r.drops[key] = drops
	return drops
}

func (r *ruleset) exprDrops(t *nftables.Table, e expr.Any) bool {
	switch e := e.(type) {
	case *expr.Reject:
		return true
	case *expr.Target: // of iptables-nft
		return e.Name == "REJECT" || e.Name == "DROP"
	case *expr.Lookup: // a map of verdicts: the verdict register is 0
		return e.IsDestRegSet && e.DestRegister == 0
	case *expr.Verdict:
		switch e.Kind {
		case expr.VerdictDrop:
			return true
		case expr.VerdictJump, expr.VerdictGoto:
			return r.mayDrop(t, e.Chain)
		}
	}
	return false
}
