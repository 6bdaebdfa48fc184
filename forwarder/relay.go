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
	fs *flights
	w  *waiter
}

func (r *relay) run() {
	fs, w := r.fs, r.w
	if w.tcp && w.q.Opcode == wire.OpcodeQuery && (w.q.Type == wire.TypeAXFR || w.q.Type == wire.TypeIXFR) {
		fs.transfer(w)
		return
	}
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
