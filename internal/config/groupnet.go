// SPDX-License-Identifier: Apache-2.0

package config

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"math"
	"net/netip"

	"golang.org/x/sys/unix"

	"sotto/forwarder/dns64"
	"sotto/forwarder/wire"
	"sotto/internal/outbound"
)

// Values of the setting rebinding.
const (
	RebindingAllow  = "allow"
	RebindingRefuse = "refuse"
)

// dns64Auto is the value of the setting dns64 that finds the prefix.
const dns64Auto = "auto"

// NetworkMark is in the key of answers that depend on the network where they were made, because DNS64
// found the prefix there. It does not occur in other keys, nor in names of groups.
const NetworkMark = "~"

// NetworkSettings are the settings of a group about the way to its servers, which of them gets a
// query, and addresses in answers.
type NetworkSettings struct {
	SourceAddress []string `toml:"source-address"`
	Device        string   `toml:"device"`
	Mark          int      `toml:"mark"`

	Split string `toml:"split"`

	DNS64          string   `toml:"dns64"`
	Rebinding      string   `toml:"rebinding"`
	RebindingAllow []string `toml:"rebinding-allow"`
}

// defaultNetwork returns the defaults.
func defaultNetwork() NetworkSettings {
	return NetworkSettings{Split: SplitOff, Rebinding: RebindingAllow}
}

// Network is what [NetworkSettings] mean.
type Network struct {
	Outbound outbound.Options

	DNS64 bool
	// Prefix is the prefix of DNS64; zero: it is found.
	Prefix netip.Prefix

	Rebinding bool     // answers are checked
	Allowed   [][]byte // names that are not, in wire form
}

// key returns what distinguishes groups, for [Group.Key].
func (n *Network) key() string {
	return fmt.Sprintf("%s %t %s %t %q", n.Outbound, n.DNS64, n.Prefix, n.Rebinding, n.Allowed)
}

// AnswersKey returns what distinguishes the answers of groups whose servers are the same: how DNS64
// and the protection against rebinding change them. It is "" if they do not.
func (n *Network) AnswersKey() string {
	if !n.DNS64 && !n.Rebinding {
		return ""
	}
	sum := sha256.Sum256(fmt.Appendf(nil, "%t %s %t %q", n.DNS64, n.Prefix, n.Rebinding, n.Allowed))
	key := hex.EncodeToString(sum[:4])
	if n.DNS64 && !n.Prefix.IsValid() {
		key += NetworkMark
	}
	return key
}

// planNetwork reads the settings of a group. Their paths start with prefix.
func (s *Settings) planNetwork(prefix string, g NetworkSettings) (n Network, err error) {
	if n.Outbound, err = s.planOutbound(prefix, g); err != nil {
		return n, err
	}
	switch g.DNS64 {
	case "":
	case dns64Auto:
		n.DNS64 = true
	default:
		n.DNS64 = true
		if n.Prefix, err = dns64.ParsePrefix(g.DNS64); err != nil {
			return n, s.invalid(prefix+"dns64", err)
		}
	}
	switch g.Rebinding {
	case RebindingAllow, "":
	case RebindingRefuse:
		n.Rebinding = true
	default:
		return n, s.invalidf(prefix+"rebinding", "%q: want %q or %q", g.Rebinding, RebindingAllow, RebindingRefuse)
	}
	if len(g.RebindingAllow) > 0 && !n.Rebinding {
		return n, s.invalidf(prefix+"rebinding-allow", `it has no effect: add rebinding = %q, or remove it`, RebindingRefuse)
	}
	for i, text := range g.RebindingAllow {
		name, err := wire.AppendParsed(nil, text)
		if err != nil {
			return n, s.invalidf(fmt.Sprintf("%srebinding-allow[%d]", prefix, i), "%q is not a name: %w", text, err)
		}
		n.Allowed = append(n.Allowed, name)
	}
	return n, nil
}

// planOutbound reads the settings about the way to the servers.
func (s *Settings) planOutbound(prefix string, g NetworkSettings) (o outbound.Options, err error) {
	for i, text := range g.SourceAddress {
		path := fmt.Sprintf("%ssource-address[%d]", prefix, i)
		a, err := netip.ParseAddr(text)
		if err != nil || a.IsUnspecified() || a.IsMulticast() || a.Zone() != "" {
			return o, s.invalidf(path, "%q is not an address of this machine: want one such as 192.0.2.7 or 2001:db8::7", text)
		}
		to := &o.Source6
		if a = a.Unmap(); a.Is4() {
			to = &o.Source4
		}
		if to.IsValid() {
			return o, s.invalidf(path, "%s and %s are of the same family: want at most one of each", *to, a)
		}
		*to = a
	}
	if len(g.Device) >= unix.IFNAMSIZ {
		return o, s.invalidf(prefix+"device", "%q is longer than the %d bytes of a device's name: see `ip link` for the names", g.Device, unix.IFNAMSIZ-1)
	}
	o.Device = g.Device
	if g.Mark < 0 || int64(g.Mark) > math.MaxUint32 {
		return o, s.invalidf(prefix+"mark", "it is %d: want 0 (none) to 4294967295 (0xffffffff)", g.Mark)
	}
	o.Mark = uint32(g.Mark)
	return o, nil
}
