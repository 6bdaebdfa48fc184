// SPDX-License-Identifier: Apache-2.0

package dnssec

import (
	"fmt"

	"sotto/forwarder/dnssec/denial"
	"sotto/forwarder/dnssec/record"
	"sotto/forwarder/wire"
)

// Error says why an answer is bogus.
type Error struct {
	Code uint16 // of the Extended DNS Error
	Text string
}

func (e *Error) Error() string { return "DNSSEC: " + e.Text }

// EDE returns the reason for clients.
func (e *Error) EDE() wire.EDE { return wire.EDE{Code: e.Code, Text: e.Text} }

// bogus returns an error about records of a name.
func bogus(code uint16, name record.Name, typ uint16, format string, args ...any) *Error {
	return &Error{code, fmt.Sprintf("%s %s: %s", name, wire.TypeName(typ), fmt.Sprintf(format, args...))}
}

// refusal returns the error for a proof that is not examined.
func refusal(r denial.Result, name record.Name, typ uint16) *Error {
	if r == denial.Excessive {
		return bogus(wire.EDEUnsupportedIterations, name, typ, "its NSEC3 records have too many iterations")
	}
	return bogus(wire.EDEBogus, name, typ, "its NSEC3 records need too many hashes")
}

// reasons names the codes for statistics.
var reasons = map[uint16]string{
	wire.EDEBogus: "bogus", wire.EDESignatureExpired: "signature_expired", wire.EDESignatureNotYetValid: "signature_not_yet_valid",
	wire.EDEDNSKEYMissing: "dnskey_missing", wire.EDERRSIGsMissing: "rrsigs_missing", wire.EDENoZoneKey: "no_zone_key",
	wire.EDENSECMissing: "nsec_missing", wire.EDEUnsupportedIterations: "nsec3_iterations",
}

// Reasons lists the keys of [Stats.Bogus].
func Reasons() []string {
	var all []string
	for _, r := range reasons {
		all = append(all, r)
	}
	return all
}
