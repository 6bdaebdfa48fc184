// SPDX-License-Identifier: Apache-2.0

package pathtest

import (
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"sotto/intercept/filters"
)

var testConfig = Config{
	Prefixes: []netip.Prefix{netip.MustParsePrefix("198.19.0.0/16"), netip.MustParsePrefix("fd73:6f74:746f::/64")},
	Port:     53, Link: "sotto0",
}

// fails returns failures of UDP and TCP over IPv4.
func fails(udp, tcp error) (out []failure) {
	if udp != nil {
		out = append(out, failure{probe{}, udp})
	}
	if tcp != nil {
		out = append(out, failure{probe{tcp: true}, tcp})
	}
	return out
}

func chain(hook filters.Hook, policyDrop bool) filters.Chain {
	return filters.Chain{Family: "inet", Table: "t", Name: string(hook), Hook: hook, PolicyDrop: policyDrop}
}

// TestPlaces checks which chains are named for an error: those that can have caused it.
func TestPlaces(t *testing.T) {
	all := ruleset{chains: []filters.Chain{chain(filters.Input, true), chain(filters.Forward, true), chain(filters.Output, true)}}
	for name, c := range map[string]struct {
		pid      int
		failures []failure
		want     []string // names of chains; those of a container start with a plus sign
	}{
		"denied on the host":        {0, fails(unix.EPERM, os.ErrDeadlineExceeded), []string{"output"}},
		"lost on the host":          {0, fails(os.ErrDeadlineExceeded, os.ErrDeadlineExceeded), []string{"input"}},
		"only TCP on the host":      {0, fails(nil, os.ErrDeadlineExceeded), []string{"output", "input"}},
		"refused on the host":       {0, fails(unix.ECONNREFUSED, unix.ECONNREFUSED), []string{"output", "input"}},
		"denied in a container":     {7, fails(unix.EPERM, os.ErrDeadlineExceeded), []string{"+output"}},
		"lost behind a container":   {7, fails(os.ErrDeadlineExceeded, os.ErrDeadlineExceeded), []string{"forward", "+input"}},
		"only TCP of a container":   {7, fails(nil, os.ErrDeadlineExceeded), []string{"forward", "+output", "+input"}},
		"refused behind the bridge": {7, fails(unix.EHOSTUNREACH, unix.ECONNREFUSED), []string{"forward", "+output", "+input"}},
	} {
		e := evidence{Config: testConfig, failures: c.failures, pid: c.pid, host: all, inside: all}
		var got []string
		for _, b := range e.blocks() {
			chain := strings.Fields(b.What)[4]
			if strings.Contains(b.What, "process 7") {
				chain = "+" + chain
			}
			got = append(got, chain)
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("%s: got %v, want %v", name, got, c.want)
		}
	}
}

// TestOrder checks the order of blocks: what certainly drops the queries comes first, what
// cannot be examined last.
func TestOrder(t *testing.T) {
	e := evidence{
		Config: testConfig, failures: fails(unix.EPERM, os.ErrDeadlineExceeded),
		host: ruleset{legacy4: true, legacy6: true, chains: []filters.Chain{
			chain(filters.Output, false), chain(filters.Output, true), {Family: "ip6", Table: "t", Name: "o", Hook: filters.Output, PolicyDrop: true},
		}},
		programs: []program{
			{filters.Program{Dir: "/cg/a.scope", Setting: filters.IPAddress, Egress: true}, [2]verdict{yes, no}},
			{filters.Program{Dir: "/cg/b.slice", Setting: filters.Interfaces}, [2]verdict{no, yes}},
		},
	}
	r := Report{Blocks: e.blocks()}
	what, fix := r.Texts()
	const wantWhat = "IPAddressAllow= and IPAddressDeny= of a.scope; nftables chain inet t output (policy drop); " +
		"nftables chain inet t output (has rules that drop); the table filter of iptables-legacy (if it drops)"
	const wantFix = "systemctl edit a.scope, with [Scope] IPAddressAllow=198.19.0.0/16 fd73:6f74:746f::/64; " +
		`nft insert rule inet t output oifname "sotto0" accept; nft insert rule inet t output oifname "sotto0" accept; ` +
		"iptables-legacy -I OUTPUT -o sotto0 -j ACCEPT"
	if what != wantWhat || fix != wantFix {
		t.Errorf("got\n%s\n%s\nwant\n%s\n%s", what, fix, wantWhat, wantFix)
	}
}

// TestFixes checks the changes that are named for each kind of filter.
func TestFixes(t *testing.T) {
	lost := os.ErrDeadlineExceeded
	inV6 := []failure{{probe{v6: true}, lost}}
	for name, c := range map[string]struct {
		e    evidence
		want string
	}{
		"forward": {evidence{failures: fails(lost, lost), pid: 7, host: ruleset{chains: []filters.Chain{chain(filters.Forward, true)}}},
			`nft insert rule inet t forward oifname "sotto0" accept; nft insert rule inet t forward iifname "sotto0" accept`},
		"legacy forward": {evidence{failures: inV6, pid: 7, host: ruleset{legacy6: true}},
			"ip6tables-legacy -I FORWARD -o sotto0 -j ACCEPT; ip6tables-legacy -I FORWARD -i sotto0 -j ACCEPT"},
		"legacy input": {evidence{failures: inV6, host: ruleset{legacy6: true, legacy4: true}}, "ip6tables-legacy -I INPUT -i sotto0 -j ACCEPT"},
		"input of a container": {evidence{failures: inV6, pid: 7, inside: ruleset{chains: []filters.Chain{chain(filters.Input, true)}}},
			"nsenter --net=/proc/7/ns/net nft insert rule inet t input ip6 saddr fd73:6f74:746f::/64 accept"},
		"a name with a command": {evidence{failures: fails(unix.EPERM, nil), pid: 7, inside: ruleset{chains: []filters.Chain{
			{Family: "ip", Table: "$(reboot)", Name: "o", Hook: filters.Output, PolicyDrop: true}}}}, ""},
		"a unit with a command": {evidence{failures: fails(unix.EPERM, nil), programs: []program{
			{filters.Program{Dir: "/cg/$(reboot).service", Setting: filters.IPAddress}, [2]verdict{yes, yes}}}}, ""},
		"an instance of a unit": {evidence{failures: fails(unix.EPERM, nil), programs: []program{
			{filters.Program{Dir: `/cg/a@x\x2dy.service`, Setting: filters.Interfaces}, [2]verdict{unknown, unknown}}}},
			`systemctl edit 'a@x\x2dy.service', with [Service] RestrictNetworkInterfaces=sotto0`},
		"another program": {evidence{failures: fails(unix.EPERM, nil), programs: []program{{filters.Program{Dir: "/cg", Name: "x"}, [2]verdict{}}}}, ""},
		"nothing":         {evidence{failures: fails(lost, lost)}, ""},
	} {
		c.e.Config = testConfig
		r := Report{Blocks: c.e.blocks()}
		what, fix := r.Texts()
		if what == "" || fix != c.want {
			t.Errorf("%s: %s\ngot  %s\nwant %s", name, what, fix, c.want)
		}
	}
}
