// SPDX-License-Identifier: Apache-2.0

package forwarder

import (
	"errors"

	"sotto/forwarder/wire"
)

var errClientGone = errors.New("the client is gone")

// relay hands a query to the nameserver that was meant, and its reply back, both as
// they are but for the ID.
type relay struct {
	fs   *flights
	w    *waiter
	from *shares // what it has a share of
}

// relay has w's query carried as it is.
func (fs *flights) relay(w *waiter) error {
	r := &relay{fs, w, fs.relays}
	if w.tcp && w.q.Opcode == wire.OpcodeQuery && (w.q.Type == wire.TypeAXFR || w.q.Type == wire.TypeIXFR) {
		r.from = fs.transfers
	}
	if err := r.from.take(w.who); err != nil {
		return err
	}
	if !fs.crew.run(r) {
		r.from.give(w.who)
		return errClosed
	}
	return nil
}

func (r *relay) run() {
	who := r.w.who // w may be reused once it has its reply
	defer r.from.give(who)
	if r.from == r.fs.transfers {
		r.fs.transfer(r.w)
		return
	}
	r.fs.exchange(r.w)
}

// exchange carries one message each way.
func (fs *flights) exchange(w *waiter) {
	until := w.start.Add(fs.cfg.Timeout)
	reply, err := fs.cfg.Nameserver.Exchange(fs.ctx, w.origin.Addr, w.q.Msg, w.tcp, until)
	if err != nil {
		fs.fail(w, err)
		return
	}
	buf := getBuffer()
	defer putBuffer(buf)
	*buf = append((*buf)[:sinkRoom], reply...)
	wire.SetID((*buf)[sinkRoom:], w.q.ID)
	fs.done(w, *buf, wire.Rcode(reply), nil)
}

// transfer hands a zone on, message by message.
func (fs *flights) transfer(w *waiter) {
	var rcode uint16
	sent := 0
	until := w.start.Add(fs.cfg.Timeout)
	buf := getBuffer()
	defer putBuffer(buf)
	err := fs.cfg.Nameserver.Transfer(fs.ctx, w.origin.Addr, w.q.Msg, until, func(msg []byte) error {
		*buf = append((*buf)[:sinkRoom], msg...)
		wire.SetID((*buf)[sinkRoom:], w.q.ID)
		if !w.sink.part(*buf) {
			return errClientGone
		}
		rcode = wire.Rcode(msg)
		sent++
		return nil
	})
	if err != nil && sent == 0 {
		fs.fail(w, err)
		return
	}
	if err != nil {
		w.sink.cut()
	}
	fs.done(w, (*buf)[:sinkRoom], rcode, err)
}
