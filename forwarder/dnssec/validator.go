// SPDX-License-Identifier: Apache-2.0

package dnssec

import (
	"context"
	"sync"
	"time"

	"sotto/forwarder/dnssec/anchor"
	"sotto/forwarder/dnssec/bounded"
	"sotto/forwarder/dnssec/denial"
	"sotto/forwarder/dnssec/record"
	"sotto/forwarder/dnssec/signature"
	"sotto/forwarder/wire"
)

// Exchanger sends a query to an upstream, as forwarder.Exchanger does.
type Exchanger interface {
	Exchange(ctx context.Context, query []byte, until time.Time) (reply []byte, err error)
}

// Config configures a [Validator].
type Config struct {
	Upstream Exchanger   // required
	Anchors  *anchor.Set // nil: those of the root zone

	// SHA1 accepts the algorithms 5 and 7. Without it zones that have no other are insecure (RFC
	// 9905).
	SHA1 bool

	// Counters count the verdicts, also of other validators with the same counters. Nil: those of
	// this validator alone.
	Counters *Counters

	// Now returns the time, without a reading of the monotonic clock, which stops while a machine is suspended: keys and
	// denials age meanwhile. Nil: the wall clock.
	Now func() time.Time
}

// Numbers of entries of a validator's maps; there are at most twice as many. An entry of zones has
// the keys of a zone: 2 kB, and at most 25 kB. One of cuts takes 200 bytes.
const (
	zonesSize = 1024
	cutsSize  = 8192
)

// Validator validates the answers of an upstream. It is safe for concurrent use. It has no
// goroutines except for queries, which end with those of clients.
type Validator struct {
	cfg      Config
	verified *signature.Cache
	zones    *bounded.Map[record.Name, *node] // signed zones
	cuts     *bounded.Map[record.Name, *node] // other steps of a chain
	denials  *denials
	flights  flights
	count    *Counters
}

// wallClock returns the time without a reading of the monotonic clock.
func wallClock() time.Time { return time.Now().Round(0) }

// New returns a Validator.
func New(cfg Config) *Validator {
	if cfg.Anchors == nil {
		cfg.Anchors = anchor.Root()
	}
	if cfg.Now == nil {
		cfg.Now = wallClock
	}
	if cfg.Counters == nil {
		cfg.Counters = new(Counters)
	}
	return &Validator{
		cfg: cfg, count: cfg.Counters, verified: signature.NewCache(), denials: newDenials(),
		zones: bounded.New[record.Name, *node](zonesSize), cuts: bounded.New[record.Name, *node](cutsSize),
	}
}

// Exchange sends a query of [wire.AppendQuery] to the upstream and validates the reply. The reply
// has AD set if it is secure, and signatures only if the query had DO set. If it is bogus the error
// is an [*Error]. The time limit until includes the queries for the chain of trust.
func (v *Validator) Exchange(ctx context.Context, query []byte, until time.Time) ([]byte, error) {
	if len(query) < wire.HeaderLen || wire.HasCD(query) {
		reply, err := v.cfg.Upstream.Exchange(ctx, query, until)
		if err == nil && len(reply) >= wire.HeaderLen {
			wire.SetAD(reply, false)
			v.count.unvalidated.Add(1)
		}
		return reply, err
	}
	var room [wire.MaxQueryLen]byte
	own, ok := wire.AppendValidating(room[:0], query)
	if !ok { // one of Sotto's own, without OPT
		q, err := wire.ParseQuery(query)
		if err != nil {
			return nil, err
		}
		own = wire.AppendLookup(room[:0], q.Name, q.Type)
	}
	if reply := v.fromDenials(query); reply != nil {
		v.count.synthesized.Add(1)
		return reply, nil
	}
	raw, err := v.cfg.Upstream.Exchange(ctx, own, until)
	if err != nil {
		return nil, err
	}
	return v.check(ctx, raw, wire.WantsDNSSEC(query), until)
}

// parsers are for replies. What outlives a reply is copied from them.
var parsers = sync.Pool{New: func() any { return new(record.Parser) }}

// check validates a reply, for a client that wants signatures or not.
func (v *Validator) check(ctx context.Context, raw []byte, do bool, until time.Time) ([]byte, error) {
	p := parsers.Get().(*record.Parser)
	defer func() {
		if !p.Large() {
			parsers.Put(p)
		}
	}()
	m, err := p.Parse(raw)
	if err != nil {
		v.count.failed.Add(1)
		return nil, &Error{wire.EDEOther, "the upstream's reply is malformed"}
	}
	wire.SetAD(raw, false)
	if m.Class != wire.ClassIN || m.Type == wire.TypeRRSIG || m.Rcode != wire.RcodeSuccess && m.Rcode != wire.RcodeNXDomain {
		v.count.unvalidated.Add(1)
		return v.finish(m, unfiltered, do), nil
	}
	if wire.IsTruncated(raw) {
		v.count.failed.Add(1)
		return nil, &Error{wire.EDEOther, "the upstream's reply is truncated"}
	}
	a := &answer{v: v, ctx: ctx, until: until, m: m, now: v.cfg.Now(), work: work{limit: maxVerifications}}
	secure, err := a.validate()
	v.count.add(secure, err)
	if err != nil {
		return nil, err
	}
	if !secure {
		return v.finish(m, reached, do), nil
	}
	wire.SetAD(raw, true)
	v.denials.learn(a)
	return v.finish(m, verified, do), nil
}

// newProof returns an empty proof for a zone.
func newProof(zone record.Name) *denial.Proof { return denial.New(zone, denial.DefaultLimits) }
