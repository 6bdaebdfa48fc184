// SPDX-License-Identifier: Apache-2.0

package forwarder

import (
	"context"
	"errors"
	"time"

	"sotto/forwarder/admission"
	"sotto/forwarder/wire"
)

var errClientDisconnected = errors.New("the client has disconnected")

// relayJob sends a query to its original destination and its reply to the client. Only the ID of
// both is changed, and a cookie added to a reply that the client would discard without one.
type relayJob struct {
	fs    *flights
	p     *pendingQuery
	limit *admission.Shares // flights.relays or flights.transfers
}

// relay starts to relay p.
func (fs *flights) relay(p *pendingQuery) error {
	j := &relayJob{fs, p, fs.relays}
	if p.tcp && p.q.Opcode == wire.OpcodeQuery && (p.q.Type == wire.TypeAXFR || p.q.Type == wire.TypeIXFR) {
		j.limit = fs.transfers
	}
	if err := j.limit.Acquire(p.src); err != nil {
		return err
	}
	if !fs.pool.Run(j) {
		j.limit.Release(p.src)
		return errClosed
	}
	return nil
}

// Run relays the query and the reply.
func (j *relayJob) Run() {
	src := j.p.src // p may be reused once its reply was sent
	defer j.limit.Release(src)
	if j.limit == j.fs.transfers {
		j.fs.relayTransfer(j.p)
		return
	}
	j.fs.relayMessage(j.p)
}

// nameserver returns the client for the original destination of p.
func (fs *flights) nameserver(p *pendingQuery) Nameserver {
	if p.route.Action == Local {
		return fs.cfg.Local(p.origin)
	}
	return fs.cfg.Nameserver
}

// relayMessage relays a query whose reply is one message.
func (fs *flights) relayMessage(p *pendingQuery) {
	reply, rejected, err := fs.exchange(p)
	if err != nil {
		fs.fail(p, err)
		return
	}
	buf := getBuffer()
	defer putBuffer(buf)
	*buf = (*buf)[:framePrefix]
	if usesCookies(p) && !rejected && fs.lacksCookie(p, reply) {
		limit := 0
		if !p.tcp {
			limit = int(p.q.UDPSize)
		}
		*buf = wire.AppendWithCookie(*buf, reply, &p.q, limit)
	} else {
		*buf = append(*buf, reply...)
	}
	wire.SetID((*buf)[framePrefix:], p.q.ID)
	fs.reply(p, *buf, wire.Rcode(reply), nil)
}

// exchange sends p to its original destination. A nameserver that rejects EDNS, and so cookies, is
// asked again without, as the client would: the client discards the rejection if it expects a
// cookie. rejected is set if that is not possible.
func (fs *flights) exchange(p *pendingQuery) (reply []byte, rejected bool, err error) {
	until := p.start.Add(fs.cfg.Timeout)
	reply, err = fs.ask(p, p.q.Msg, until)
	if err != nil || !usesCookies(p) || !wire.RejectsEDNS(reply) {
		return reply, false, err
	}
	bare, ok := wire.AppendWithoutOPT(nil, p.q.Msg)
	if !ok {
		return reply, true, nil
	}
	again, err := fs.ask(p, bare, until)
	if err != nil {
		return reply, true, nil
	}
	return again, false, nil
}

// ask sends a query to the original destination of p.
func (fs *flights) ask(p *pendingQuery, query []byte, until time.Time) ([]byte, error) {
	sent := fs.cfg.tapRelayed(p, query)
	reply, err := fs.nameserver(p).Exchange(fs.ctx, p.origin.Addr, p.origin.Cgroup, query, p.tcp, until)
	if err == nil {
		fs.cfg.tapRelayedReply(p, sent, reply)
	}
	return reply, err
}

// relayTransfer relays a zone transfer, message by message.
func (fs *flights) relayTransfer(p *pendingQuery) {
	var rcode uint16
	sent := 0
	until := p.start.Add(fs.cfg.Timeout)
	buf := getBuffer()
	defer putBuffer(buf)
	asked := fs.cfg.tapRelayed(p, p.q.Msg)
	stop := func() bool { return true }
	err := fs.nameserver(p).Transfer(fs.ctx, p.origin.Addr, p.q.Msg, until, func(msg []byte) error {
		if sent == 0 {
			stop = context.AfterFunc(fs.ctx, p.writer.abort) // a client that does not read must not delay Close
		}
		fs.cfg.tapRelayedReply(p, asked, msg)
		*buf = append((*buf)[:framePrefix], msg...)
		wire.SetID((*buf)[framePrefix:], p.q.ID)
		fs.cfg.tapReply(&p.request, (*buf)[framePrefix:])
		if !p.writer.sendPart(*buf) {
			return errClientDisconnected
		}
		rcode = wire.Rcode(msg)
		sent++
		return nil
	})
	stop()
	if err != nil && sent == 0 {
		fs.fail(p, err)
		return
	}
	if err != nil {
		p.writer.abort()
	}
	fs.reply(p, (*buf)[:framePrefix], rcode, err)
}
