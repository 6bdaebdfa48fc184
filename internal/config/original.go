// SPDX-License-Identifier: Apache-2.0

package config

import (
	"fmt"
	"net/netip"
	"slices"

	"sotto/forwarder/upstream"
	"sotto/forwarder/upstream/order"
	"sotto/forwarder/upstream/original"
)

// UpstreamOriginal is the upstream that stands for the nameserver that the client asked.
const UpstreamOriginal = "original"

// FallbackFail is the value of original-fallback with which queries fail.
const FallbackFail = "fail"

// discoveries are the values of original-discovery.
var discoveries = map[string]original.Discovery{"known": original.OnlyKnown, "tls": original.WithTLS, "ddr": original.WithDDR}

// OriginalSettings are the settings of a group with [UpstreamOriginal].
type OriginalSettings struct {
	Discovery string `toml:"original-discovery"`
	Fallback  string `toml:"original-fallback"`
}

// Original describes a group whose servers are those of the nameservers that clients asked. Its
// [Group.Config] has no servers.
type Original struct {
	Discovery original.Discovery
	// Fallback is the name of the group that gets the other queries; "": they fail.
	Fallback string
}

// isOriginal reports whether the group is one for the nameservers that clients asked.
func (g *GroupSettings) isOriginal() bool { return slices.Contains(g.Upstream, UpstreamOriginal) }

// planOriginal reads such a group into p. name is its name.
func (s *Settings) planOriginal(o Options, prefix, name string, g GroupSettings, p *Group) error {
	switch {
	case o.Serve:
		return s.invalidf(prefix+"upstream", `"original" is the nameserver that the client asked, which 'sotto serve' does not know: use 'sotto run', or name servers`)
	case len(g.Upstream) > 1:
		return s.invalidf(prefix+"upstream", `"original" has to be the only upstream of its group: move the others to another group, and name that in original-fallback`)
	case len(g.Pins) > 0:
		return s.invalidf(prefix+"pins", `they are those of one server, and "original" stands for many: remove them`)
	case g.ClientCert != "" || g.ClientKey != "":
		return s.invalidf(prefix+"client-cert", `with "original" any nameserver could request it, and see who you are: remove it`)
	case g.Split != SplitOff && g.Split != "":
		return s.invalidf(prefix+"split", `it has no effect with "original": remove it`)
	case p.Config.Policy != order.Failover:
		return s.invalidf(prefix+"policy", `it has no effect with "original": remove it`)
	}
	discovery, ok := discoveries[g.Discovery]
	if !ok && g.Discovery != "" {
		return s.invalidf(prefix+"original-discovery", `%q: want "known", "tls" or "ddr"`, g.Discovery)
	}
	if g.Discovery == "" {
		discovery = original.WithTLS
	}
	if discovery >= original.WithDDR && g.Proxy != "" {
		return s.invalidf(prefix+"original-discovery", `"ddr" asks nameservers in plain DNS, which a proxy does not carry: use "tls" or "known", or remove proxy`)
	}
	p.Original = &Original{Discovery: discovery, Fallback: g.Fallback}
	switch {
	case g.Fallback == FallbackFail, g.Fallback == "" && name == DefaultGroup:
		p.Original.Fallback = ""
	case g.Fallback == "":
		p.Original.Fallback = DefaultGroup
	}
	// A server by which the other settings are checked.
	p.Config.Servers = []upstream.Server{{Addr: netip.AddrPortFrom(netip.AddrFrom4([4]byte{192, 0, 2, 1}), 853)}}
	return nil
}

// linkOriginals checks the fallbacks of groups, and makes their keys part of those of the groups,
// because answers may come from either.
func (s *Settings) linkOriginals(groups map[string]Group) error {
	for i := -1; i < len(s.Groups); i++ {
		name, prefix := DefaultGroup, ""
		if i >= 0 {
			name, prefix = s.Groups[i].Name, fmt.Sprintf("group[%d].", i)
		}
		g := groups[name]
		if g.Original == nil {
			continue
		}
		g.Config.Servers = nil
		g.Key += fmt.Sprintf(" original %q %d", name, g.Original.Discovery) // its scopes contain the name
		if fallback := g.Original.Fallback; fallback != "" {
			f, ok := groups[fallback]
			switch {
			case !ok:
				return s.invalidf(prefix+"original-fallback", "there is no group %q: want one of %s, or \"fail\"", fallback, groupNames(groups))
			case f.Original != nil:
				return s.invalidf(prefix+"original-fallback", "the group %q has the upstream \"original\" itself: name a group with servers, or \"fail\"", fallback)
			}
			g.Key += fmt.Sprintf(" fallback %q", f.Key)
		}
		groups[name] = g
	}
	return nil
}
