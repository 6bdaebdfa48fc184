// SPDX-License-Identifier: Apache-2.0

package dnssec

import (
	"context"
	"testing"
	"time"

	"github.com/miekg/dns"

	"sotto/forwarder/wire"
)

// BenchmarkWarm measures the validation of an answer from a known zone whose records were verified
// before: a wildcard's address and the NSEC record that proves that it applies.
func BenchmarkWarm(b *testing.B) {
	w, v := newWorld(b)
	query := wire.AppendLookup(nil, []byte(wireName("n1.w.a13.test.")), dns.TypeA)
	raw, err := w.Exchange(context.Background(), query, time.Time{})
	if err != nil {
		b.Fatal(err)
	}
	until := time.Now().Add(time.Hour)
	buf := make([]byte, len(raw))
	b.ReportAllocs()
	for b.Loop() {
		copy(buf, raw)
		if _, err := v.check(context.Background(), buf, false, until); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkVerify measures the same for records that were not verified before, whose two
// signatures are ECDSA P-256.
func BenchmarkVerify(b *testing.B) {
	w, v := newWorld(b)
	query := wire.AppendLookup(nil, []byte(wireName("n1.w.a13.test.")), dns.TypeA)
	until := time.Now().Add(time.Hour)
	for b.Loop() {
		b.StopTimer()
		raw, err := w.Exchange(context.Background(), query, time.Time{})
		if err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
		if _, err := v.check(context.Background(), raw, false, until); err != nil {
			b.Fatal(err)
		}
	}
}
