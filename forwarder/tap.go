// SPDX-License-Identifier: Apache-2.0

package forwarder

import (
	"net/netip"
	"time"

	"sotto/forwarder/tap"
)

// tapQuery shows a client's query to Tap.
func (cfg *Config) tapQuery(r *request, msg []byte) {
	if cfg.Tap != nil {
		cfg.Tap(r.message(tap.ClientQuery, msg))
	}
}

// tapReply shows the reply to a client to Tap. After the parts of a zone transfer msg is empty.
func (cfg *Config) tapReply(r *request, msg []byte) {
	if cfg.Tap != nil && len(msg) > 0 {
		m := r.message(tap.ClientResponse, msg)
		m.Replied = time.Now()
		cfg.Tap(m)
	}
}

// tapRelayed shows Tap a query that is sent to the original destination of p, and returns the
// time. The message has the ID of the client's, not the one on the wire.
func (cfg *Config) tapRelayed(p *pendingQuery, query []byte) (sent time.Time) {
	if cfg.Tap == nil {
		return sent
	}
	m := p.message(tap.ForwarderQuery, query)
	m.Querier, m.Queried = netip.AddrPort{}, time.Now()
	cfg.Tap(m)
	return m.Queried
}

// tapRelayedReply shows Tap a reply of the original destination to a query sent at that time.
func (cfg *Config) tapRelayedReply(p *pendingQuery, sent time.Time, msg []byte) {
	if cfg.Tap != nil {
		m := p.message(tap.ForwarderResponse, msg)
		m.Querier, m.Queried, m.Replied = netip.AddrPort{}, sent, time.Now()
		cfg.Tap(m)
	}
}

// message describes a message about r. The responder is the nameserver that the client asked,
// if it is known.
func (r *request) message(k tap.Kind, msg []byte) tap.Message {
	m := tap.Message{
		Kind: k, Querier: unmap(r.client), Responder: unmap(r.local), Workload: r.origin.Workload, Queried: r.start, Data: msg,
	}
	if r.origin.Addr.IsValid() {
		m.Responder = r.origin.Addr
	}
	if r.tcp {
		m.Proto = tap.TCP
	}
	return m
}
