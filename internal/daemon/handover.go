// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"sotto/forwarder"
	"sotto/intercept"
	"sotto/internal/takeover"
)

// handover is the predecessor's side of a takeover: this process hands the seal over to
// another one.
type handover struct {
	seal    *seal
	daemon  *daemon
	terms   takeover.Terms
	lineage takeover.Lineage
	stops   *stopper
	log     *slog.Logger

	resume    func()              // resumes reconciling; set by accept
	successor *takeover.Successor // the process that has taken over
}

// accept handles the request of another process: it checks the terms and releases the
// instance.
func (h *handover) accept(ctx context.Context, text []byte) (takeover.Terms, error) {
	t, err := takeover.ParseTerms(text)
	if err != nil {
		return t, err
	}
	if err := t.Check(h.terms); err != nil {
		return t, err
	}
	if err := h.lineage.Check(t); err != nil {
		return t, err
	}
	if err := h.stops.beginTakeover(); err != nil {
		return t, err
	}
	if err := h.release(ctx); err != nil {
		h.stops.set(owned)
		return t, err
	}
	h.log.Info("another Sotto asked to take over")
	h.daemon.saveCache() // for the successor
	return t, nil
}

// release stops reconciling, and lets another process open the instance.
func (h *handover) release(ctx context.Context) error {
	resume, err := h.seal.pause(ctx)
	if err != nil {
		return err
	}
	if err := h.seal.inst.Release(); err != nil {
		resume()
		return err
	}
	h.resume = resume
	return nil
}

// run hands the seal over, and reports whether the other process has taken over. If that
// process fails this one resumes, unless a stop was requested meanwhile.
func (h *handover) run(ctx context.Context, successor *takeover.Successor) bool {
	err := h.offer(ctx, successor)
	if err == nil {
		h.successor = successor
		h.stops.cancel(&forwarder.Handover{SendConn: successor.Give})
		return true
	}
	if ctx.Err() != nil {
		_ = successor.Close()
		return false // this process failed, and the other one owns the seal or exits
	}
	successor.Refuse()
	h.log.Error("the other Sotto did not take over; resuming", "err", err)
	if err := h.reclaim(ctx, h.seal.resolver.groups.queryTime(), h.seal.inst.Reclaim); err != nil {
		h.stops.cancel(fmt.Errorf("reclaim the seal after a failed takeover: %w; %s", err, staysClosed))
		return false
	}
	h.resume()
	if ctx.Err() == nil {
		h.stops.set(owned)
	}
	return false
}

func (h *handover) offer(ctx context.Context, successor *takeover.Successor) error {
	udp, tcp, err := h.seal.sockets.Descriptors()
	if err != nil {
		return err
	}
	return successor.Offer(ctx, h.lineage.Next(), udp, tcp)
}

// exitMargin is how much longer than its slowest query a process that did not take over may take to
// exit: it first answers the queries that it has read.
const exitMargin = 4 * time.Second

// reclaim opens the instance again when the process that did not take over has exited,
// however long that takes. Until then this process answers queries. open is
// [intercept.Instance.Reclaim], and slowest how long a query takes at most.
func (h *handover) reclaim(ctx context.Context, slowest time.Duration, open func() error) error {
	hangs := time.Now().Add(slowest + exitMargin)
	for logged := false; ctx.Err() == nil; {
		err := open()
		if err == nil {
			h.log.Info("reclaimed the seal")
		}
		if !errors.Is(err, intercept.ErrOwned) {
			return err
		}
		if !logged && time.Now().After(hangs) {
			h.log.Error("the other Sotto hangs: kill it; until then nothing is repaired, and 'sotto reload' does not work (SIGHUP does)")
			logged = true
		}
	}
	return nil
}

// handedOver reports whether ctx ended because another process has taken over.
func handedOver(ctx context.Context) bool {
	var h *forwarder.Handover
	return errors.As(context.Cause(ctx), &h)
}
