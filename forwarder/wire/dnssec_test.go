// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"testing"

	"github.com/miekg/dns"
)

// TestValidating: what a validating forwarder sends and replies, as miekg/dns reads it.
func TestValidating(t *testing.T) {
	m := new(dns.Msg)
	m.SetQuestion("WwW.example.", dns.TypeMX)
	raw, err := m.Pack()
	if err != nil {
		t.Fatal(err)
	}
	q, err := ParseQuery(raw)
	if err != nil {
		t.Fatal(err)
	}
	own, ok := AppendValidating([]byte("before"), AppendQuery(nil, &q))
	if !ok {
		t.Fatal("not accepted")
	}
	for what, query := range map[string][]byte{"a client's": own[len("before"):], "Sotto's": AppendLookup(nil, q.Name, q.Type)} {
		var got dns.Msg
		if err := got.Unpack(query); err != nil {
			t.Fatal(err)
		}
		if !got.CheckingDisabled || !got.RecursionDesired || got.IsEdns0() == nil || !got.IsEdns0().Do() || got.Question[0] != m.Question[0] || !HasCD(query) {
			t.Errorf("%s query: %v", what, got.String())
		}
	}
	if _, ok := AppendValidating(nil, raw); ok {
		t.Error("a query without OPT is accepted")
	}
	reply := AppendOPT(AppendValidated(nil, &q, RcodeNXDomain), true)
	var got dns.Msg
	if err := got.Unpack(reply); err != nil || !got.Response || !got.AuthenticatedData || got.CheckingDisabled || got.Rcode != dns.RcodeNameError ||
		!got.IsEdns0().Do() || got.Question[0] != m.Question[0] || IsTruncated(reply) || HasCD(reply) {
		t.Errorf("%v, %v", err, got.String())
	}
	SetAD(reply, false)
	SetRcode(reply, RcodeSuccess)
	if err := got.Unpack(reply); err != nil || got.AuthenticatedData || got.Rcode != dns.RcodeSuccess || !got.RecursionAvailable {
		t.Errorf("%v, %v", err, got.String())
	}
	SetAD(reply, true)
	reply[2] |= 2
	if err := got.Unpack(reply); err != nil || !got.AuthenticatedData || !IsTruncated(reply) {
		t.Errorf("%v, %v", err, got.String())
	}
}
