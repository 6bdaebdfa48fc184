// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"time"

	"sotto/forwarder"
	"sotto/forwarder/cache"
	"sotto/forwarder/dnssec"
	"sotto/forwarder/failures"
	"sotto/forwarder/wire"
	"sotto/internal/config"
	"sotto/internal/status"
)

// planOf returns the plan of a configuration.
func planOf(t *testing.T, text string) config.Plan {
	t.Helper()
	s, err := config.Parse("sotto.toml", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	p, err := s.Plan(config.Options{Read: config.ReadFile})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// TestExplainText: what `explain` says about failures and about validation.
func TestExplainText(t *testing.T) {
	failed := forwarder.Cached{State: cache.Miss, Left: 2340 * time.Millisecond,
		Failure: &failures.Failure{Rcode: wire.RcodeServFail, EDE: []wire.EDE{{Code: wire.EDENoReachableAuthority, Text: "192.0.2.1:853: timeout"}}}}
	if got, want := cachedText(failed), "nothing; SERVFAIL of a failed query for another 2.3s: 192.0.2.1:853: timeout"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
	groups := planOf(t, "dnssec = \"validate\"\nnegative-trust-anchors = [\"corp.example\"]\n[[group]]\nname = \"work\"\nupstream = [\"192.0.2.1\"]\ndnssec = \"off\"\n").Groups
	for _, tc := range []struct{ group, name, want string }{
		{config.DefaultGroup, "www.example.", "validated, with the trust anchor of ."},
		{config.DefaultGroup, "a.CORP.example.", "not validated: no trust anchor, or a negative one"},
		{"work", "www.example.", ""},
	} {
		name, err := wire.AppendParsed(nil, tc.name)
		if err != nil {
			t.Fatal(err)
		}
		if got := validationText(groups[tc.group].Validation, name); got != tc.want {
			t.Errorf("%s in %s: %q, want %q", tc.name, tc.group, got, tc.want)
		}
	}
}

// TestScope: answers that were validated or changed differently, or not, are separate in the cache.
func TestScope(t *testing.T) {
	g := newGroups(t.Context(), nil, slog.New(slog.DiscardHandler))
	defer g.Close()
	seen := map[string]string{}
	for _, text := range []string{"", "dnssec = \"validate\"", "dnssec = \"validate\"\nnegative-trust-anchors = [\"a\"]", "dnssec = \"validate\"\ndnssec-sha1 = true",
		"dns64 = \"64:ff9b::/96\"", "dns64 = \"auto\"", "rebinding = \"refuse\"", "rebinding = \"refuse\"\nrebinding-allow = [\"a\"]", "rebinding = \"refuse\"\ndnssec = \"validate\""} {
		p := planOf(t, text+"\n[[group]]\nname = \"work\"\nupstream = [\"192.0.2.1\"]\n"+text)
		table, err := g.prepare(p.Groups)
		if err != nil {
			t.Fatal(err)
		}
		for name := range p.Groups {
			scope := table.scope(name)
			if other := seen[scope]; other != "" {
				t.Errorf("%s with %q has the scope %q, as %s", name, text, scope, other)
			}
			seen[scope] = name + " with " + text
			if m := table[name]; (m.validated != nil) != strings.Contains(text, "validate") {
				t.Errorf("%s with %q validates: %v", name, text, m.validated != nil)
			}
		}
		if err := table.discard(); err != nil {
			t.Fatal(err)
		}
	}
}

// unsigned is a group of servers that reply NOERROR without records to every query.
type unsigned struct{}

func (unsigned) Exchange(_ context.Context, query []byte, _ time.Time) ([]byte, error) {
	reply := append([]byte(nil), query...)
	reply[2] |= 0x80
	return reply, nil
}

// TestValidates: the answers of a group that validates are those of the validator, which counts
// them.
func TestValidates(t *testing.T) {
	p := planOf(t, `dnssec = "validate"`).Groups[config.DefaultGroup]
	v := new(dnssec.Counters)
	query, err := lookup("www.example.", wire.TypeA)
	if err != nil {
		t.Fatal(err)
	}
	_, err = exchanger(p, unsigned{}, v).Exchange(t.Context(), query, time.Now().Add(time.Minute))
	var e *dnssec.Error
	if !errors.As(err, &e) || e.Code != wire.EDEDNSKEYMissing {
		t.Errorf("%v: want that the root has no keys", err)
	}
	st := v.Stats()
	g := status.Group{Name: "default", Policy: "failover", DNSSEC: validationStatus(&st)}
	var text strings.Builder
	s := status.Status{Groups: []status.Group{g}}
	if err := s.Text(&text, time.Now(), status.Style{}); err != nil || !strings.Contains(text.String(), "DNSSEC: 0 secure, 0 insecure, 1 bogus: dnskey_missing 1") {
		t.Errorf("%v: %s", err, text.String())
	}
	off := planOf(t, "").Groups[config.DefaultGroup]
	if reply, err := exchanger(off, unsigned{}, nil).Exchange(t.Context(), query, time.Now()); err != nil || reply == nil {
		t.Errorf("without validation: %v", err)
	}
}
