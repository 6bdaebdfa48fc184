// SPDX-License-Identifier: Apache-2.0

package dnssec

import (
	"context"
	"fmt"
	"time"

	"sotto/forwarder/dnssec/denial"
	"sotto/forwarder/dnssec/record"
	"sotto/forwarder/dnssec/signature"
	"sotto/forwarder/wire"
)

// kind says what is known about a name in the chain of trust.
type kind uint8

const (
	signedZone kind = iota // a zone starts there whose keys are trusted
	unsigned               // an unsigned zone starts there, or nothing above is trusted
	sameZone               // the name belongs to the zone above it
	noName                 // likewise, and there are no names below it
	broken                 // the chain is bogus there
)

// node is a step of the chain of trust. It is not modified after it was made.
type node struct {
	learned
	kind kind
	name record.Name
	keys []signature.Key // of a signedZone
	err  error           // of a broken one: an *Error, or the upstream's
}

const (
	// Nodes are kept for the TTL of their records within these limits, and no longer than their
	// signatures are valid.
	minNodeTTL = 5
	maxNodeTTL = 24 * 60 * 60
	// brokenTTL is how long a broken node is kept (RFC 4035 §4.7): what its owner repairs is
	// noticed soon, and clients that repeat their queries cause no more.
	brokenTTL = 30
	// failedTTL is the same for a step at which the upstream failed (RFC 9520 §3.2).
	failedTTL = 1
	// maxSteps is the number of labels between a trust anchor and a zone. Reverse names of IPv6
	// addresses have 34.
	maxSteps = 40
)

// noTrust is the node of names without a trust anchor.
var noTrust = &node{kind: unsigned}

// zoneOf returns the node of the zone that name is in: a signedZone or an unsigned one. The error
// is an [*Error] if the chain is bogus, otherwise the upstream's.
//
// signer is set if a signature names name as its zone. Its keys are then asked for together with its
// DS records, so that a zone that is new costs one round trip.
func (v *Validator) zoneOf(ctx context.Context, name record.Name, signer bool, until time.Time) (*node, error) {
	start, ok := v.cfg.Anchors.Closest(name)
	if !ok {
		return noTrust, nil
	}
	zone, err := v.node(ctx, start, nil, false, until)
	if err != nil || zone.kind != signedZone {
		return zone, err
	}
	first, last := start.Labels()+1, name.Labels()
	if last-first >= maxSteps {
		last = first + maxSteps - 1
	}
	for labels := first; labels <= last; labels++ {
		n, err := v.node(ctx, name.Suffix(labels), zone, signer && labels == name.Labels(), until)
		switch {
		case err != nil:
			return nil, err
		case n.kind == unsigned:
			return n, nil
		case n.kind == signedZone:
			zone = n
		case n.kind == noName:
			return zone, nil
		}
	}
	return zone, nil
}

// node returns the node of a name below a zone. parent is nil for the zone of a trust anchor. signer
// is set if the name is probably a signed zone.
func (v *Validator) node(ctx context.Context, name record.Name, parent *node, signer bool, until time.Time) (*node, error) {
	for {
		n := v.known(name)
		if n == nil {
			f, leader := v.flights.join(name)
			if !leader {
				if err := f.wait(ctx, until); err != nil {
					return nil, err
				}
				if n = f.node; n == nil {
					continue // it had less time
				}
			} else {
				var err error
				n, err = v.lead(ctx, name, parent, signer, until)
				v.flights.leave(name, f, n)
				if err != nil {
					return nil, err
				}
			}
		}
		if n.kind == broken {
			return nil, n.err
		}
		return n, nil
	}
}

// known returns the node of a name if it is known and has not expired.
func (v *Validator) known(name record.Name) *node {
	n, ok := v.zones.Get(name)
	if !ok {
		n, ok = v.cuts.Get(name)
	}
	if !ok || n.left(v.cfg.Now()) <= 0 {
		return nil
	}
	return n
}

// lead makes the node of a name for a flight, unless an earlier flight ended after the caller had
// looked for the node.
func (v *Validator) lead(ctx context.Context, name record.Name, parent *node, signer bool, until time.Time) (*node, error) {
	if n := v.known(name); n != nil {
		return n, nil
	}
	return v.fetch(ctx, name, parent, signer, until)
}

// fetch makes the node of a name, and stores it. The error is that there was no time.
func (v *Validator) fetch(ctx context.Context, name record.Name, parent *node, signer bool, until time.Time) (*node, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	f := fetcher{v: v, ctx: ctx, until: until, now: v.cfg.Now(), work: work{limit: maxVerifications}, ttl: maxNodeTTL}
	var n *node
	var err error
	if parent == nil {
		n, err = f.keys(name, v.cfg.Anchors.Digests(name))
	} else {
		if signer {
			f.prefetch(name)
		}
		n, err = f.delegation(name, parent)
	}
	f.ttl = max(f.ttl, minNodeTTL)
	switch {
	case err != nil && (ctx.Err() != nil || !time.Now().Before(until)):
		return nil, err
	case err != nil:
		n, f.ttl = brokenNode(err), failedTTL
	case n.kind == broken:
		f.ttl = brokenTTL
	}
	n.name, n.learned = name, learned{f.now, time.Duration(f.ttl) * time.Second}
	v.store(n)
	return n, nil
}

// store stores a node. It replaces one of the same name in the other map, which would hide it.
func (v *Validator) store(n *node) {
	to, other := v.cuts, v.zones
	if n.kind == signedZone {
		to, other = v.zones, v.cuts
	}
	to.Put(n.name, n)
	other.Delete(n.name)
}

// fetcher makes one node.
type fetcher struct {
	v     *Validator
	ctx   context.Context
	until time.Time
	now   time.Time
	work  work
	ttl   uint32 // lowest of what the node depends on

	prefetched chan lookupResult // of the keys; nil if they are not asked for yet
}

// lookupResult is the result of a query.
type lookupResult struct {
	m   *record.Message
	err error
}

// prefetch asks for the keys of a zone in the background.
func (f *fetcher) prefetch(zone record.Name) {
	f.prefetched = make(chan lookupResult, 1)
	go func() {
		m, err := f.lookup(zone, wire.TypeDNSKEY)
		f.prefetched <- lookupResult{m, err}
	}()
}

// brokenNode returns a node for a step that failed.
func brokenNode(err error) *node { return &node{kind: broken, err: err} }

// lookup asks the upstream for records.
func (f *fetcher) lookup(name record.Name, typ uint16) (*record.Message, error) {
	f.v.count.queries.Add(1)
	var room [wire.MaxQueryLen]byte
	raw, err := f.v.cfg.Upstream.Exchange(f.ctx, wire.AppendLookup(room[:0], []byte(name), typ), f.until)
	if err != nil {
		return nil, fmt.Errorf("look up %s %s for DNSSEC: %w", name, wire.TypeName(typ), err)
	}
	m, err := record.Parse(raw)
	if err != nil || m.Name != name || m.Type != typ || m.Class != wire.ClassIN || wire.IsTruncated(raw) {
		return nil, fmt.Errorf("look up %s %s for DNSSEC: the reply is malformed or truncated", name, wire.TypeName(typ))
	}
	if m.Rcode != wire.RcodeSuccess && m.Rcode != wire.RcodeNXDomain {
		return nil, fmt.Errorf("look up %s %s for DNSSEC: the upstream replied %s", name, wire.TypeName(typ), wire.RcodeName(m.Rcode))
	}
	return m, nil
}

// keySet returns the reply with the keys of a zone.
func (f *fetcher) keySet(zone record.Name) (*record.Message, error) {
	if f.prefetched == nil {
		return f.lookup(zone, wire.TypeDNSKEY)
	}
	l := <-f.prefetched
	return l.m, l.err
}

// verify verifies an RRset with the keys of a zone, and limits the TTL of the node.
func (f *fetcher) verify(s *record.Set, zone record.Name, keys []signature.Key) (*record.RRSIG, *Error) {
	sig, err := f.v.verify(s, zone, keys, &f.work, f.now)
	if err == nil {
		f.ttl = min(f.ttl, s.TTL, lifetime(sig, f.now))
	}
	return sig, err
}

// delegation makes the node of a name directly below others of the zone parent, by its DS records.
func (f *fetcher) delegation(name record.Name, parent *node) (*node, error) {
	m, err := f.lookup(name, wire.TypeDS)
	if err != nil {
		return nil, err
	}
	set := m.Find(record.Answer, name, wire.TypeDS)
	if set == nil {
		return f.absent(m, name, parent), nil
	}
	if sig, err := f.verify(set, parent.name, parent.keys); err != nil {
		return brokenNode(err), nil
	} else if _, expanded := set.Expanded(sig); expanded {
		return brokenNode(bogus(wire.EDEBogus, name, wire.TypeDS, "it was expanded from a wildcard")), nil
	}
	ds := f.usable(set)
	if len(ds) == 0 {
		return &node{kind: unsigned}, nil
	}
	return f.keys(name, ds)
}

// usable returns the DS records that are supported. Those with SHA-1 are ignored if there are
// others (RFC 4509 §3).
func (f *fetcher) usable(set *record.Set) (all []record.DS) {
	strong := false
	for _, data := range set.Data {
		ds, ok := record.ParseDS(data)
		if ok && signature.SupportedDigest(ds.Type) && signature.Supported(ds.Algorithm, f.v.cfg.SHA1) {
			all = append(all, ds)
			strong = strong || ds.Type != signature.DigestSHA1
		}
	}
	if !strong {
		return all
	}
	kept := all[:0]
	for _, ds := range all {
		if ds.Type != signature.DigestSHA1 {
			kept = append(kept, ds)
		}
	}
	return kept
}

// absent makes the node of a name without DS records, by what proves that.
func (f *fetcher) absent(m *record.Message, name record.Name, parent *node) *node {
	// Before the CNAME, which is not signed if it follows from the DNAME.
	if set := dnameAbove(m, name); set != nil && set.Owner.Within(parent.name) {
		if _, err := f.verify(set, parent.name, parent.keys); err == nil {
			return &node{kind: noName}
		}
	}
	if set := m.Find(record.Answer, name, wire.TypeCNAME); set != nil {
		if _, err := f.verify(set, parent.name, parent.keys); err != nil {
			return brokenNode(err)
		}
		return &node{kind: sameZone}
	}
	proof := newProof(parent.name)
	var worst *Error
	for _, s := range m.Sets {
		if s.Section != record.Authority || s.Type != wire.TypeNSEC && s.Type != wire.TypeNSEC3 || len(s.Data) == 0 {
			continue
		}
		if _, err := f.verify(s, parent.name, parent.keys); err == nil {
			proof.Add(s)
		} else if worst == nil || worst.Code == wire.EDERRSIGsMissing {
			worst = err
		}
	}
	cut, result := proof.Delegation(name)
	switch {
	case result == denial.TooManyIterations:
		return &node{kind: unsigned}
	case result == denial.Excessive || result == denial.TooMuchWork:
		return brokenNode(refusal(result, name, wire.TypeDS))
	case cut == denial.Unsigned:
		return &node{kind: unsigned}
	case cut == denial.NotCut && m.Rcode == wire.RcodeNXDomain && proof.NameError(name) == denial.Proven:
		// The code alone proves nothing: it is not signed, and some servers return it for an empty
		// non-terminal.
		return &node{kind: noName}
	case cut == denial.NotCut:
		return &node{kind: sameZone}
	case worst != nil:
		return brokenNode(worst)
	}
	return brokenNode(bogus(wire.EDENSECMissing, name, wire.TypeDS, "nothing proves whether the zone is signed"))
}

// keys makes the node of a zone whose keys have one of those digests.
func (f *fetcher) keys(zone record.Name, digests []record.DS) (*node, error) {
	m, err := f.keySet(zone)
	if err != nil {
		return nil, err
	}
	set := m.Find(record.Answer, zone, wire.TypeDNSKEY)
	if set == nil {
		return brokenNode(bogus(wire.EDEDNSKEYMissing, zone, wire.TypeDNSKEY, "the zone has no keys")), nil
	}
	trusted, all, zoneKeys := f.match(set, digests)
	switch {
	case zoneKeys == 0:
		return brokenNode(bogus(wire.EDENoZoneKey, zone, wire.TypeDNSKEY, "none of its keys has the zone flag")), nil
	case len(all) > maxKeys:
		return brokenNode(bogus(wire.EDEBogus, zone, wire.TypeDNSKEY, "it has more than %d keys", maxKeys)), nil
	case len(trusted) == 0:
		return brokenNode(bogus(wire.EDEDNSKEYMissing, zone, wire.TypeDNSKEY, "no key matches the DS records or trust anchors")), nil
	}
	if _, err := f.verify(set, zone, trusted); err != nil {
		return brokenNode(f.clock(err, zone)), nil
	}
	return &node{kind: signedZone, keys: all}, nil
}

// match returns the usable keys of a zone, those of them that have one of the digests, and the
// number of keys with the zone flag.
func (f *fetcher) match(set *record.Set, digests []record.DS) (trusted, all []signature.Key, zoneKeys int) {
	compared := 0
	for _, data := range set.Data {
		raw := record.DNSKEY(data)
		if len(data) <= 4 || raw.Flags()&record.FlagZone == 0 {
			continue
		}
		zoneKeys++
		key, ok := signature.NewKey(raw, f.v.cfg.SHA1)
		if !ok {
			continue
		}
		if all = append(all, key); len(all) > maxKeys {
			break
		}
		for _, ds := range digests {
			if ds.Tag != key.Tag || ds.Algorithm != key.Algorithm || compared >= maxDigests {
				continue
			}
			compared++
			if signature.Matches(ds, set.Owner, raw) {
				trusted = append(trusted, key)
				break
			}
		}
	}
	return trusted, all, zoneKeys
}

// clock adds to an error about the keys of the root zone that the clock may be wrong: the
// signatures of the root are renewed long before they expire.
func (f *fetcher) clock(err *Error, zone record.Name) *Error {
	if zone == record.Root && (err.Code == wire.EDESignatureExpired || err.Code == wire.EDESignatureNotYetValid) {
		err.Text += ": the clock of this machine is probably wrong (" + f.now.UTC().Format(time.RFC3339) + ")"
	}
	return err
}
