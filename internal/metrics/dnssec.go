// SPDX-License-Identifier: Apache-2.0

package metrics

import "sotto/internal/status"

// Validation of signatures.
var (
	validated = define(Counter, "sotto_dnssec_answers_total",
		"Answers of the group's servers by the result of their validation (secure, insecure, bogus, failed, unvalidated), and those made from a known denial (synthesized).", "group", "result")
	bogusAnswers      = define(Counter, "sotto_dnssec_bogus_answers_total", "Bogus answers by reason.", "group", "reason")
	validationLookups = define(Counter, "sotto_dnssec_lookups_total", "Queries for DS and DNSKEY records.", "group")
	signatures        = define(Counter, "sotto_dnssec_signatures_total", "Signatures that were verified.", "group")
)

func (s *sink) dnssec(group string, v *status.Validation) {
	bogus := uint64(0)
	for reason, n := range v.Bogus {
		bogus += n
		s.set(bogusAnswers, float64(n), group, reason)
	}
	for result, n := range map[string]uint64{
		"secure": v.Secure, "insecure": v.Insecure, "bogus": bogus, "failed": v.Failed, "unvalidated": v.Unvalidated, "synthesized": v.Synthesized,
	} {
		s.set(validated, float64(n), group, result)
	}
	s.set(validationLookups, float64(v.Lookups), group)
	s.set(signatures, float64(v.Signatures), group)
}
