// SPDX-License-Identifier: Apache-2.0

package dnssec

import (
	"time"

	"sotto/forwarder/dnssec/record"
	"sotto/forwarder/dnssec/signature"
	"sotto/forwarder/wire"
)

// Limits of the work that one answer, or one step of a chain, can cause (CVE-2023-50387). Zones
// have one to four signatures per RRset, and two keys with the same tag are a rare accident.
const (
	// maxVerifications is the number of signatures that are verified, without those whose result
	// is known.
	maxVerifications = 32
	// maxSetVerifications is the same for one RRset.
	maxSetVerifications = 8
	// maxSameTag is the number of keys with the signature's tag and algorithm that are tried.
	maxSameTag = 4
	// maxKeys is the number of keys of a zone that are used.
	maxKeys = 24
	// maxDigests is the number of pairs of DS and DNSKEY records that are compared.
	maxDigests = 32
)

// work counts what was done for one answer.
type work struct {
	limit    int // of verifications
	verified int
	signed   []byte // buffer for what a signature signs
}

// skew is how far a clock may be wrong without consequences for signatures. BIND accepts nothing,
// unbound a tenth of the signature's period, between an hour and a day.
const skew = 5 * time.Minute

// period returns 0 if a signature is valid at the time, or the code of the reason why not.
// Times are compared modulo 2³² (RFC 4034 §3.1.5).
func period(sig *record.RRSIG, now time.Time) uint16 {
	t := uint32(now.Unix())
	switch s := int32(skew / time.Second); {
	case int32(sig.Expiration-sig.Inception) < 0:
		return wire.EDEBogus
	case int32(t-sig.Expiration) > s:
		return wire.EDESignatureExpired
	case int32(sig.Inception-t) > s:
		return wire.EDESignatureNotYetValid
	}
	return 0
}

// lifetime returns how many seconds an RRset may be used that has this signature (RFC 4035
// §5.3.3).
func lifetime(sig *record.RRSIG, now time.Time) uint32 {
	left := int32(sig.Expiration - uint32(now.Unix()))
	return min(sig.OrigTTL, uint32(max(left, 1)))
}

// failure is why an RRset was not verified. The most specific reason is kept.
type failure struct {
	code uint16
	text string
}

// rank orders reasons by how much they say.
func (f failure) rank() int {
	switch f.code {
	case wire.EDERRSIGsMissing:
		return 0
	case wire.EDEDNSKEYMissing:
		return 1
	case wire.EDESignatureExpired, wire.EDESignatureNotYetValid:
		return 2
	}
	return 3
}

// verify looks for a signature of the RRset by one of the keys of a zone. It returns the
// signature.
func (v *Validator) verify(s *record.Set, zone record.Name, keys []signature.Key, w *work, now time.Time) (*record.RRSIG, *Error) {
	worst := failure{code: wire.EDERRSIGsMissing}
	tried := 0
	for i := range s.Sigs {
		sig := &s.Sigs[i]
		if sig.Signer != zone || !signature.Supported(sig.Algorithm, v.cfg.SHA1) {
			continue
		}
		f := failure{code: period(sig, now)}
		switch f.code {
		case 0:
			if f = v.verifyOne(s, sig, keys, w, &tried); f.code == 0 {
				return sig, nil
			}
		case wire.EDESignatureExpired:
			f.text = "its signature expired at " + stamp(sig.Expiration, now)
		case wire.EDESignatureNotYetValid:
			f.text = "its signature is not valid before " + stamp(sig.Inception, now)
		default:
			f.text = "its signature expires before it becomes valid"
		}
		if f.rank() > worst.rank() {
			worst = f
		}
		if tried >= maxSetVerifications || w.verified >= w.limit {
			break
		}
	}
	if worst.text == "" {
		worst.text = "it has no signature of " + zone.String()
	}
	return nil, bogus(worst.code, s.Owner, s.Type, "%s", worst.text)
}

// stamp returns a time of a signature, which is modulo 2³², near now.
func stamp(t uint32, now time.Time) string {
	delta := int32(t - uint32(now.Unix()))
	return now.Add(time.Duration(delta) * time.Second).UTC().Format(time.RFC3339)
}

// verifyOne verifies one signature, whose time is valid, with the keys that it may be of.
func (v *Validator) verifyOne(s *record.Set, sig *record.RRSIG, keys []signature.Key, w *work, tried *int) failure {
	if _, expanded := s.Expanded(sig); expanded && neverExpanded(s.Type) {
		return failure{wire.EDEBogus, "it was expanded from a wildcard"}
	}
	var data []byte
	f := failure{wire.EDEDNSKEYMissing, "no key of the zone made its signature"}
	sameTag := 0
	for i := range keys {
		k := &keys[i]
		if k.Tag != sig.Tag || k.Algorithm != sig.Algorithm {
			continue
		}
		if sameTag++; sameTag > maxSameTag {
			return failure{wire.EDEBogus, "too many keys have the tag of its signature"}
		}
		if *tried >= maxSetVerifications {
			return failure{wire.EDEBogus, "it has too many signatures"}
		}
		*tried++
		if data == nil {
			var ok bool
			if data, ok = s.AppendSigned(w.signed[:0], sig); !ok {
				return failure{wire.EDEBogus, "its signature has more labels than its name"}
			}
			w.signed = data
		}
		sum, valid, known := v.verified.Lookup(k, data, sig.Signature)
		if !known {
			if w.verified >= w.limit {
				return failure{wire.EDEBogus, "the answer has too many signatures"}
			}
			w.verified++
			v.count.signatures.Add(1)
			valid = k.Verify(data, sig.Signature)
			v.verified.Store(sum, valid)
		}
		if valid {
			return failure{}
		}
		f = failure{wire.EDEBogus, "its signature is wrong"}
	}
	return f
}

// neverExpanded reports whether records of a type exist only at their own name.
func neverExpanded(typ uint16) bool {
	switch typ {
	case wire.TypeNSEC, wire.TypeNSEC3, wire.TypeDNSKEY, wire.TypeSOA, wire.TypeDNAME:
		return true
	}
	return false
}
