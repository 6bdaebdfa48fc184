// SPDX-License-Identifier: Apache-2.0

package forwarder

import (
	"context"
	"errors"

	"sotto/forwarder/admission"
	"sotto/forwarder/wire"
)

var errClientDisconnected = errors.New("the client has disconnected")

// relayJob sends a query to its original destination and its reply to the client.
// Only the ID of both is changed.
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
	until := p.start.Add(fs.cfg.Timeout)
	sent := fs.cfg.tapRelayed(p)
	reply, err := fs.nameserver(p).Exchange(fs.ctx, p.origin.Addr, p.origin.Cgroup, p.q.Msg, p.tcp, until)
	if err != nil {
		fs.fail(p, err)
		return
	}
	fs.cfg.tapRelayedReply(p, sent, reply)
	buf := getBuffer()
	defer putBuffer(buf)
	*buf = append((*buf)[:framePrefix], reply...)
	wire.SetID((*buf)[framePrefix:], p.q.ID)
	fs.reply(p, *buf, wire.Rcode(reply), nil)
}

// relayTransfer relays a zone transfer, message by message.
func (fs *flights) relayTransfer(p *pendingQuery) {
	var rcode uint16
	sent := 0
	until := p.start.Add(fs.cfg.Timeout)
	buf := getBuffer()
	defer putBuffer(buf)
	asked := fs.cfg.tapRelayed(p)
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
