// SPDX-License-Identifier: Apache-2.0

package guard

import (
	"strings"
	"testing"

	"sotto/intercept/network"
)

func TestInsideLinks(t *testing.T) {
	const bridge, veth, tap, nic = "bridge", "veth", "tuntap", "device"
	for name, test := range map[string]struct {
		links []network.Link
		want  string // names
	}{
		"a network card":               {[]network.Link{{Name: "eth0", Kind: nic, Framed: true}}, ""},
		"a veth with a network":        {[]network.Link{{Name: "eth0", Kind: veth, Framed: true, HasSubnet: true}}, ""},
		"a veth to a container":        {[]network.Link{{Name: "ve-c", Kind: veth, Framed: true, HasSubnet: true, IsEnclosed: true}}, "ve-c"},
		"a veth to a router":           {[]network.Link{{Name: "vpn", Kind: veth, Framed: true, HasSubnet: true, IsEnclosed: true, IsGateway: true}}, ""},
		"a veth with the route":        {[]network.Link{{Name: "eth0", Kind: veth, Framed: true, IsGateway: true}}, ""},
		"a veth of a container":        {[]network.Link{{Name: "cali0", Kind: veth, Framed: true}}, "cali0"},
		"a VPN's tunnel":               {[]network.Link{{Name: "tun0", Kind: tap, HasSubnet: true}}, ""},
		"an unnumbered tunnel":         {[]network.Link{{Name: "tun0", Kind: tap}}, ""},
		"an empty bridge":              {[]network.Link{{Name: "docker0", Kind: bridge, Framed: true, HasSubnet: true}}, "docker0"},
		"a bridge of containers":       {[]network.Link{{Name: "docker0", Kind: bridge, Framed: true, HasSubnet: true, Index: 1}, {Name: "v0", Kind: veth, Framed: true, Index: 2, Master: 1}, {Name: "t0", Kind: tap, Framed: true, Index: 3, Master: 1}}, "docker0 v0 t0"},
		"a bridge with a network card": {[]network.Link{{Name: "v0", Kind: veth, Framed: true, Index: 2, Master: 1}, {Name: "br0", Kind: bridge, Framed: true, Index: 1}, {Name: "eth0", Kind: nic, Framed: true, Index: 3, Master: 1}}, ""},
		"a bridge with the route":      {[]network.Link{{Name: "br0", Kind: bridge, Framed: true, Index: 1, IsGateway: true}, {Name: "v0", Kind: veth, Framed: true, Index: 2, Master: 1}}, ""},
		"a bond's port":                {[]network.Link{{Name: "bond0", Kind: "bond", Framed: true, Index: 1}, {Name: "v0", Kind: veth, Framed: true, Index: 2, Master: 1}}, "v0"},
	} {
		for i := range test.links {
			if test.links[i].Index == 0 {
				test.links[i].Index = 10 + i
			}
		}
		inside := InsideLinks(test.links)
		var got []string
		for _, l := range test.links {
			if inside[l.Index] {
				got = append(got, l.Name)
			}
		}
		if strings.Join(got, " ") != test.want {
			t.Errorf("%s: %v are inside, want %q", name, got, test.want)
		}
	}
}
