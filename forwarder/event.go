// SPDX-License-Identifier: Apache-2.0

package forwarder

import (
	"net/netip"
	"time"
)

// Source is where the reply to a query comes from.
type Source uint8

const (
	// FromSotto is a reply that no one else was asked for: an error, a refusal, or a name with
	// a special meaning.
	FromSotto Source = iota
	// FromRule is the answer of a rule.
	FromRule
	// FromCache is a fresh cached answer.
	FromCache
	// FromStale is an expired cached answer (RFC 8767).
	FromStale
	// FromUpstream is the reply of an upstream.
	FromUpstream
	// FromNameserver is the reply of the original destination, in plain DNS ([Plain]).
	FromNameserver
	// FromLocal is the reply of a local resolver ([Local]).
	FromLocal

	// Sources is the number of sources.
	Sources
)

var sourceNames = [Sources]string{"sotto", "rule", "cache", "stale", "upstream", "nameserver", "local"}

// String returns the name that logs and metrics use.
func (s Source) String() string {
	if s < Sources {
		return sourceNames[s]
	}
	return "unknown"
}

// Event is one query and its reply.
type Event struct {
	Origin   Origin         // zero where the listener has no Origins
	Client   netip.AddrPort // the sender, as the listener saw it
	TCP      bool
	ID       uint16    // of the query
	Start    time.Time // when the query was read
	Name     []byte    // wire form, as the client sent it; valid during the call
	Type     uint16
	Class    uint16
	Rcode    uint16
	Rule     int // number of the rule that matched, from 1; 0: none
	Source   Source
	Duration time.Duration // from the query's arrival until the reply is ready
	Err      error         // why the query failed, nil otherwise
}

// observe reports one reply to Observe.
func (cfg *Config) observe(r *request, rcode uint16, s Source, err error) {
	if cfg.Observe == nil {
		return
	}
	cfg.Observe(Event{
		Origin: r.origin, Client: r.client, TCP: r.tcp, ID: r.q.ID, Start: r.start,
		Name: r.q.Name, Type: r.q.Type, Class: r.q.Class,
		Rcode: rcode, Rule: r.route.Rule, Source: s, Duration: time.Since(r.start), Err: err,
	})
}

// replySource returns the source of the reply to a query that was forwarded, or failed.
func (r *request) replySource(err error) Source {
	switch {
	case err != nil:
		return FromSotto
	case r.route.Action == Plain:
		return FromNameserver
	case r.route.Action == Local:
		return FromLocal
	}
	return FromUpstream
}

// policySource returns the source of a reply that needed no answer.
func (r *request) policySource() Source {
	if r.route.Rule > 0 {
		return FromRule
	}
	return FromSotto
}
