// SPDX-License-Identifier: Apache-2.0

package forwarder

import (
	"context"
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"os"
	"time"

	"sotto/forwarder/wire"
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
	// FromShared is an answer that another instance has stored ([Config.Shared]).
	FromShared
	// FromUpstream is the reply of an upstream.
	FromUpstream
	// FromNameserver is the reply of the original destination, in plain DNS ([Plain]).
	FromNameserver
	// FromLocal is the reply of a local resolver ([Local]).
	FromLocal

	// FromKernel is a cached answer that a [Repeater] gave. The forwarder itself has none.
	FromKernel

	// Sources is the number of sources.
	Sources
)

var sourceNames = [Sources]string{"sotto", "rule", "cache", "stale", "shared", "upstream", "nameserver", "local", "kernel"}

// String returns the name that logs and metrics use.
func (s Source) String() string {
	if s < Sources {
		return sourceNames[s]
	}
	return "unknown"
}

// Drop is why a query gets no reply.
type Drop uint8

const (
	NotDropped Drop = iota

	// DropPort: the source port is that of a service that answers every packet, such as echo.
	DropPort
	// DropAddress: the address that it arrived at stands for no nameserver.
	DropAddress
	// DropShort: it is shorter than the header of a message.
	DropShort
	// DropResponse: it is a response. To answer it could start an endless exchange.
	DropResponse
	// DropIncomplete: the TCP connection was closed, or the time was up, within the message.
	DropIncomplete

	// Of the following the reply was ready. It has an event of its own.

	// DropClientGone: the client has closed the TCP connection.
	DropClientGone
	// DropUnread: the TCP client does not read its replies.
	DropUnread
	// DropEvicted: the TCP connection was closed in favour of others.
	DropEvicted
	// DropReset: the TCP connection was reset, because a zone transfer on it failed.
	DropReset
	// DropSendQueue: too many replies wait for the UDP socket.
	DropSendQueue
	// DropSend: the kernel refused to send the reply.
	DropSend

	// Drops is the number of values.
	Drops
)

var dropTexts = [Drops]struct{ name, text string }{
	DropPort:       {"source_port", "sent from the port of a service that answers every packet"},
	DropAddress:    {"unknown_address", "sent to an address that stands for no nameserver"},
	DropShort:      {"short", "shorter than a DNS header"},
	DropResponse:   {"response", "a response, not a query"},
	DropIncomplete: {"incomplete", "the connection ended within the message"},
	DropClientGone: {"client_gone", "the client closed the connection before the reply"},
	DropUnread:     {"unread", "the client does not read its replies"},
	DropEvicted:    {"evicted", "too many connections: this one was closed in favour of others"},
	DropReset:      {"reset", "the connection was reset after a failed zone transfer"},
	DropSendQueue:  {"send_queue", "too many replies wait to be sent"},
	DropSend:       {"send_failed", "the kernel refused to send the reply"},
}

// String returns the name that a trace shows; "" for [NotDropped].
func (d Drop) String() string {
	if d < Drops {
		return dropTexts[d].name
	}
	return "unknown"
}

// Text explains d.
func (d Drop) Text() string {
	if d < Drops {
		return dropTexts[d].text
	}
	return ""
}

// Event is one query and its reply, or why it has none.
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
	Server   string        // the upstream server that answered; "" if none did
	Duration time.Duration // from the query's arrival until the reply is ready
	Err      error         // why the query failed, nil otherwise
	Drop     Drop          // of [Config.Dropped]: Name may be empty, Rcode and Source have no meaning
}

// observe reports one reply to Observe.
func (cfg *Config) observe(r *request, rcode uint16, s Source, err error) {
	if cfg.Observe == nil {
		return
	}
	cfg.Observe(Event{
		Origin: r.origin, Client: r.client, TCP: r.tcp, ID: r.q.ID, Start: r.start,
		Name: r.q.Name, Type: r.q.Type, Class: r.q.Class,
		Rcode: rcode, Rule: r.route.Rule, Source: s, Server: r.server, Duration: time.Since(r.start), Err: err,
	})
}

// dropped reports a query that gets no reply, as far as it was read.
func (cfg *Config) dropped(r *request, why Drop, err error) {
	if cfg.Dropped == nil {
		return
	}
	if cfg.Origins != nil && !r.origin.Addr.IsValid() {
		r.origin, _ = cfg.Origins(r.local.Addr())
	}
	cfg.Dropped(Event{
		Origin: r.origin, Client: r.client, TCP: r.tcp, ID: r.q.ID, Start: r.start,
		Name: r.q.Name, Type: r.q.Type, Class: r.q.Class,
		Rule: r.route.Rule, Duration: time.Since(r.start), Err: err, Drop: why,
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
	case r.shared:
		return FromShared
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

// dropOf returns why a write failed.
func dropOf(err error) Drop {
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		return DropUnread
	case errors.Is(err, net.ErrClosed):
		return DropEvicted
	}
	return DropClientGone
}

// dropReplies reports the framed replies in b of which not all bytes were written. Those of one
// zone transfer count once.
func (t *tcpConn) dropReplies(b []byte, written int, why Drop) {
	if t.f.cfg.Dropped == nil {
		return
	}
	last := -1
	for at := 0; at+framePrefix <= len(b); {
		end := at + framePrefix + int(binary.BigEndian.Uint16(b[at:]))
		if end > len(b) {
			return
		}
		q := wire.Outline(b[at+framePrefix : end])
		if end > written && end > at+framePrefix && int(q.ID) != last {
			last = int(q.ID)
			t.f.cfg.dropped(&request{q: q, client: t.client, local: t.local, start: time.Now(), tcp: true}, why, nil)
		}
		at = end
	}
}

// dropPartial reports the start of a message, with its length field, after which reading failed.
func (t *tcpConn) dropPartial(ctx context.Context, frame []byte, err error) {
	if len(frame) == 0 || ctx.Err() != nil {
		return
	}
	why := DropIncomplete
	if errors.Is(err, errShortFrame) {
		why = DropShort
	}
	r := request{client: t.client, local: t.local, start: time.Now(), tcp: true}
	if len(frame) > framePrefix {
		r.q = wire.Outline(frame[framePrefix:])
	}
	t.f.cfg.dropped(&r, why, nil)
}
