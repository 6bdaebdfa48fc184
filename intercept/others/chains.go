// SPDX-License-Identifier: Apache-2.0

package others

import (
	"errors"
	"fmt"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// Chain is a base chain of nftables that may drop packets which this machine sends or receives.
type Chain struct {
	Family, Table, Name string // as nft(8) names them
	Input               bool   // of received packets, or else of sent ones
	PolicyDrop          bool   // or else one of its rules may drop packets
}

var families = map[nftables.TableFamily]string{
	nftables.TableFamilyIPv4: "ip", nftables.TableFamilyIPv6: "ip6", nftables.TableFamilyINet: "inet",
}

// Chains returns the chains in the network namespace of the calling thread. Without nftables
// there are none. It needs CAP_NET_ADMIN.
func Chains() (out []Chain, err error) {
	conn, err := nftables.New(nftables.AsLasting())
	if err != nil {
		return nil, fmt.Errorf("open nftables connection: %w", err)
	}
	defer func() { err = errors.Join(err, conn.CloseLasting()) }()
	tables, err := conn.ListTables()
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EPROTONOSUPPORT) {
		return nil, nil // the kernel has no nftables
	}
	if err != nil || len(tables) == 0 {
		return nil, err
	}
	all, err := conn.ListChains()
	if err != nil {
		return nil, fmt.Errorf("list nftables chains: %w", err)
	}
	for _, c := range all {
		family, known := families[c.Table.Family]
		if !known || c.Hooknum == nil || c.Type != nftables.ChainTypeFilter {
			continue
		}
		input := *c.Hooknum == *nftables.ChainHookInput
		if !input && *c.Hooknum != *nftables.ChainHookOutput {
			continue
		}
		drops := c.Policy != nil && *c.Policy == nftables.ChainPolicyDrop
		if drops || ruleDrops(conn, c) {
			out = append(out, Chain{Family: family, Table: c.Table.Name, Name: c.Name, Input: input, PolicyDrop: drops})
		}
	}
	return out, nil
}

// ruleDrops reports whether a rule of the chain may drop packets: it drops or rejects them, or
// jumps to another chain, which is not examined.
func ruleDrops(conn *nftables.Conn, c *nftables.Chain) bool {
	rules, err := conn.GetRules(c.Table, c)
	if err != nil {
		return true
	}
	for _, r := range rules {
		for _, e := range r.Exprs {
			switch e := e.(type) {
			case *expr.Reject:
				return true
			case *expr.Target: // of iptables-nft
				return true
			case *expr.Verdict:
				if e.Kind != expr.VerdictAccept && e.Kind != expr.VerdictContinue && e.Kind != expr.VerdictReturn {
					return true
				}
			}
		}
	}
	return false
}
