// SPDX-License-Identifier: Apache-2.0

package dnssec

import (
	"errors"
	"sync/atomic"

	"sotto/forwarder/wire"
)

// Stats are the counters of a [Validator] since it was made.
type Stats struct {
	Secure      uint64
	Insecure    uint64
	Bogus       map[string]uint64 // by reason, see [Reasons]; without those that are 0
	Failed      uint64            // the chain of trust could not be built because the upstream failed
	Unvalidated uint64            // CD=1, error codes, other classes, the type RRSIG
	Synthesized uint64            // answered from a denial that was known
	Queries     uint64            // for DS and DNSKEY records
	Signatures  uint64            // verified, without those whose result was known
}

// edeCodes is more than the highest code in reasons.
const edeCodes = 32

// Counters count the verdicts of one or several validators. The zero value is ready for use.
type Counters struct {
	secure, insecure, failed, unvalidated, synthesized, queries, signatures atomic.Uint64
	bogus                                                                   [edeCodes]atomic.Uint64
}

// add counts a verdict.
func (c *Counters) add(secure bool, err error) {
	var e *Error
	switch {
	case err == nil && secure:
		c.secure.Add(1)
	case err == nil:
		c.insecure.Add(1)
	case !errors.As(err, &e):
		c.failed.Add(1)
	case reasons[e.Code] == "":
		c.bogus[wire.EDEBogus].Add(1)
	default:
		c.bogus[e.Code].Add(1)
	}
}

// Stats returns the current counters.
func (v *Validator) Stats() Stats { return v.count.Stats() }

// Stats returns the current values.
func (c *Counters) Stats() Stats {
	s := Stats{
		Secure: c.secure.Load(), Insecure: c.insecure.Load(), Failed: c.failed.Load(), Unvalidated: c.unvalidated.Load(),
		Synthesized: c.synthesized.Load(), Queries: c.queries.Load(), Signatures: c.signatures.Load(), Bogus: map[string]uint64{},
	}
	for code, reason := range reasons {
		if n := c.bogus[code].Load(); n > 0 {
			s.Bogus[reason] = n
		}
	}
	return s
}
