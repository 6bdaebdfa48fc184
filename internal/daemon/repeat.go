// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"context"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"sotto/forwarder"
	"sotto/forwarder/cache"
	"sotto/forwarder/wire"
	"sotto/intercept"
	"sotto/intercept/hits"
	"sotto/internal/config"
	"sotto/internal/observe"
	"sotto/internal/pathtest"
)

// repeater lets the kernel repeat cached answers. It is the [forwarder.Repeater] of a seal.
//
// What the kernel gives is valid as long as the rules, the cache and the addresses of this machine
// do not change: whatever changes them calls forget afterwards, and reports success only when that
// has returned.
type repeater struct {
	seal   *seal
	hub    *observe.Hub // may be nil
	policy atomic.Pointer[policy]

	version atomic.Uint32 // of the cache: see cache.Cache.Repeat
}

// policy assigns classes to slots by the rules in force.
type policy struct {
	rules config.Rules
	mu    sync.Mutex
	ids   map[string]uint32
}

// hitsConfig returns the configuration of the instance's answers, or nil with the reason why the
// kernel must not answer.
func (r *repeater) hitsConfig(p config.Plan) (*intercept.Hits, string) {
	if reason := p.KernelAnswers.Off(&p); reason != "" {
		return nil, reason
	}
	return &intercept.Hits{
		Entries: p.KernelAnswers.Entries, Classify: r.classify, Replies: r.replies, Used: r.used, Evicted: r.evicted, Reply: r.reply, Started: r.started,
	}, ""
}

// table returns the table of the seal, or nil.
func (r *repeater) table() *hits.Table {
	if r == nil || r.seal.inst == nil {
		return nil
	}
	t, _ := r.seal.inst.Hits()
	return t
}

func (r *repeater) cache() *cache.Cache {
	if r.seal.resolver == nil {
		return nil
	}
	return r.seal.resolver.cache
}

// configure sets the rules that are in force from now on. forget follows.
func (r *repeater) configure(p config.Plan) {
	if r != nil {
		r.policy.Store(&policy{rules: p.Rules, ids: make(map[string]uint32)})
	}
}

// forget makes the kernel forget all answers and, if the rules or what they depend on changed, all
// classes. When it returns, the kernel gives no answer from before.
func (r *repeater) forget(classes bool) {
	t := r.table()
	if t == nil {
		return
	}
	t.Invalidate(classes)
	if classes {
		r.started()
	} else {
		r.again()
	}
}

// started forgets the classes, because those that were assigned until now are not valid. One that
// is assigned at the same time is corrected within a second (intercept.Instance.Run).
func (r *repeater) started() {
	if old := r.policy.Load(); old != nil {
		r.policy.Store(&policy{rules: old.rules, ids: make(map[string]uint32)})
	}
	r.again()
}

// again makes the cache offer all answers again.
func (r *repeater) again() {
	if c := r.cache(); c != nil {
		c.Repeat(r.version.Add(1)&0x7FFF + 1)
	}
}

// run offers answers to the kernel until ctx ends.
func (r *repeater) run(ctx context.Context) error {
	if r.table() == nil || r.cache() == nil {
		return nil
	}
	return r.seal.resolver.RunRepeats(ctx, r)
}

// class returns the class of an origin, 0 for none: its queries are left to the forwarder.
func (r *repeater) class(o *forwarder.Origin) uint32 {
	p, t := r.policy.Load(), r.table()
	if p == nil || t == nil || p.rules.Set.UsesPods() || o.Removed && p.rules.Set.UsesWorkload() ||
		pathtest.IsProbe(o.Workload) || !o.Addr.IsValid() || r.seal.inst.IsLocal(o.Addr.Addr()) {
		return 0
	}
	var room [128]byte
	// The nameserver is always part of it: an upstream may depend on it.
	key := netip.AddrPortFrom(o.Addr.Addr().Unmap(), o.Addr.Port()).AppendTo(room[:0])
	key = p.rules.Set.AppendClass(append(key, ' '), o.Workload, o.Addr)
	p.mu.Lock()
	defer p.mu.Unlock()
	id := p.ids[string(key)]
	if id == 0 {
		if id = t.NewClass(); id != 0 {
			p.ids[string(key)] = id
		}
	}
	return id
}

// classify is the function Classify of [intercept.Hits].
func (r *repeater) classify(virtual netip.Addr) (uint32, string) {
	o, ok := r.seal.origin(virtual)
	if !ok {
		return 0, ""
	}
	return r.class(&o), o.Workload
}

// Version implements [forwarder.Repeater].
func (r *repeater) Version() uint64 { return r.table().Generation() }

// Accept implements [forwarder.Repeater].
func (r *repeater) Accept(a *forwarder.Repeatable, version uint64) {
	class := r.class(&a.Origin)
	if class == 0 {
		return
	}
	wall, boot := time.Now(), hits.Now()
	at := func(t time.Time) time.Duration { return boot - wall.Sub(t) }
	if at(a.Stored) < 0 {
		return // it was stored before this machine was started
	}
	r.table().Store(&hits.Answer{
		Class: class, DO: a.DO, CD: a.CD, Msg: a.Reply.Msg, QEnd: a.Reply.QEnd, TTLs: a.Reply.TTLs, AD: a.Reply.AD,
		Stored: at(a.Stored), Refresh: at(a.Refresh), Expires: at(a.Expires), Tag: append([]byte(nil), a.Key...),
	}, version)
}

// used is the function Used of [intercept.Hits]: what the kernel gives stays in the cache.
func (r *repeater) used(key []byte, n uint64) {
	if c := r.cache(); c != nil {
		c.Used(key, n, time.Now())
	}
}

func (r *repeater) evicted(key []byte) {
	if c := r.cache(); c != nil {
		c.RepeatAgain(key)
	}
}

// replies counts the kernel's replies.
func (r *repeater) replies(workload string, n hits.Replies) {
	if r.hub != nil {
		r.hub.Repeated(workload, wire.RcodeSuccess, n.NoError)
		r.hub.Repeated(workload, wire.RcodeNXDomain, n.NXDomain)
	}
}

// reply shows one of the kernel's replies to the tracers.
func (r *repeater) reply(h intercept.HitReply) {
	if r.hub == nil {
		return
	}
	o, _ := r.seal.origin(h.Virtual)
	took := time.Duration(h.Took)
	r.hub.Show(forwarder.Event{
		Origin: o, Client: h.Client, ID: h.ID, Start: h.At.Add(-took), Name: h.Name, Type: h.Type, Class: h.Class,
		Rcode: uint16(h.Rcode), Source: forwarder.FromKernel, Duration: took,
	})
}
