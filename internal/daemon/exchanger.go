// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"sotto/forwarder"
	"sotto/forwarder/dns64"
	"sotto/forwarder/dnssec"
	"sotto/forwarder/rebind"
	"sotto/forwarder/upstream/original"
	"sotto/internal/config"
)

// exchanger returns what answers the queries of a group: its servers, and around them what the
// group's settings do with queries and answers. Each wrapper sees the answers of the one before
// it. What a wrapper needs of the settings has to be part of [config.Group.Key]: groups with the
// same key share their answers.
//
// validated counts the answers that are validated; nil: they are not.
func exchanger(p config.Group, servers forwarder.Exchanger, validated *dnssec.Counters) original.Wrapped {
	x := original.Wrapped{Exchanger: servers}
	if validated != nil {
		v := dnssec.New(dnssec.Config{Upstream: x.Exchanger, Anchors: p.Validation.Anchors, SHA1: p.Validation.SHA1, Counters: validated})
		x.Exchanger, x.Flushed = v, append(x.Flushed, v.Flush)
	}
	var extract rebind.Extractor
	if p.Network.DNS64 {
		d := dns64.New(x.Exchanger, p.Network.Prefix)
		x.Exchanger, x.Changed, extract = d, append(x.Changed, d.NetworkChanged), d.Extract
	}
	if p.Network.Rebinding {
		x.Exchanger = rebind.New(x.Exchanger, p.Network.Allowed, extract)
	}
	return x
}
