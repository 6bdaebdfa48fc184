// SPDX-License-Identifier: Apache-2.0

package dnssec

import (
	"sotto/forwarder/dnssec/denial"
	"sotto/forwarder/dnssec/record"
	"sotto/forwarder/wire"
)

// negative verifies that a name does not exist, or that it has no records of the type of the
// question, and returns whether that is secure.
func (a *answer) negative(name record.Name) (secure bool, err error) {
	typ := a.m.Type
	done := false
	a.signers(name, typ, a.denialSigs(), func(signer record.Name) bool {
		var n *node
		if n, err = a.zone(signer, true); err != nil || n.kind == unsigned {
			done = true
		} else if n.name == signer {
			done = true
			secure, err = a.deny(a.proof(n), name)
		}
		return done
	})
	if done {
		return secure, err
	}
	n, err := a.zone(zoneName(name, typ), false)
	if err != nil || n.kind == unsigned {
		return false, err
	}
	return false, bogus(wire.EDENSECMissing, name, typ, "no NSEC or NSEC3 record proves the answer, and its zone is signed")
}

// denialSigs returns the signatures of the denial records in the authority section.
func (a *answer) denialSigs() (all []record.RRSIG) {
	for _, s := range a.m.Sets {
		if isDenial(s) {
			all = append(all, s.Sigs...)
		}
	}
	return all
}

// deny checks what a zone's records prove about a name, and returns whether that is secure. Some servers reply NXDOMAIN for an empty
// non-terminal, which exists (RFC 8020): the code is corrected.
func (a *answer) deny(p *zoneProof, name record.Name) (secure bool, err error) {
	typ := a.m.Type
	var r denial.Result
	if a.m.Rcode == wire.RcodeNXDomain {
		if r = p.NameError(name); r == denial.Nothing && p.NoData(name, typ) == denial.Proven {
			r = denial.Proven
			wire.SetRcode(a.m.Raw, wire.RcodeSuccess)
			a.m.Rcode = wire.RcodeSuccess
		}
	} else {
		r = p.NoData(name, typ)
	}
	if secure, err := a.judge(p, r, name, typ); err != nil || !secure {
		return false, err
	}
	if soa := a.m.Find(record.Authority, p.zone.name, wire.TypeSOA); soa != nil {
		sig, err := a.v.verify(soa, p.zone.name, p.zone.keys, &a.work, a.now)
		if err != nil {
			return false, err
		}
		soa.Keep = true
		a.limit(soa, lifetime(sig, a.now))
		a.soa = soa
	}
	a.denied, a.denier = name, p
	return true, nil
}

// rest keeps what else is signed by the zones of the answer: NS records of the authority section,
// and additional records. No query is sent for them.
func (a *answer) rest() {
	for _, s := range a.m.Sets {
		if s.Section == record.Answer || s.Keep || len(s.Data) == 0 || len(s.Sigs) == 0 {
			continue
		}
		for _, z := range a.zones {
			if !s.Owner.Within(z.name) {
				continue
			}
			sig, err := a.v.verify(s, z.name, z.keys, &a.work, a.now)
			if err != nil {
				continue
			}
			if _, expanded := s.Expanded(sig); !expanded {
				s.Keep = true
				a.limit(s, lifetime(sig, a.now))
			}
			break
		}
	}
}
