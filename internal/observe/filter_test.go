// SPDX-License-Identifier: Apache-2.0

package observe

import (
	"strings"
	"testing"
)

// TestFilterNormalize: what selects no query is an error, which has the valid values, and every value that
// is completed is valid.
func TestFilterNormalize(t *testing.T) {
	for _, c := range []struct{ in, want Filter }{
		{Filter{}, Filter{}},
		{Filter{Name: "Example.com", Type: "aaaa", Rcode: "servfail", Source: "Upstream"}, Filter{Name: "Example.com.", Type: "AAAA", Rcode: "SERVFAIL", Source: "upstream"}},
		{Filter{Name: ".", Type: "type28", Rcode: "rcode2", Source: "guard"}, Filter{Name: ".", Type: "AAAA", Rcode: "SERVFAIL", Source: "guard"}},
		{Filter{Type: "TYPE65280", Rcode: "RCODE24"}, Filter{Type: "TYPE65280", Rcode: "RCODE24"}},
		{Filter{Rcode: "None", Workload: "/x"}, Filter{Rcode: "none", Workload: "/x"}},
	} {
		got := c.in
		if err := got.Normalize(); err != nil || got != c.want {
			t.Errorf("%+v: %+v, %v: want %+v", c.in, got, err, c.want)
		}
	}
	for want, f := range map[string]Filter{
		"empty label":         {Name: "a..example"},
		"such as AAAA":        {Type: "AAAAA"},
		"SERVFAIL, ":          {Rcode: "SERVFAL"},
		"RCODE24":             {Rcode: "RCODE4096"},
		"upstream, ":          {Source: "upstreams"},
		"unknown rcode \"2\"": {Rcode: "2"},
	} {
		if err := f.Normalize(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: %v, want %q", f, err, want)
		}
	}
	for _, name := range RcodeNames() {
		if f := (Filter{Rcode: name}); f.Normalize() != nil || f.Rcode != name {
			t.Errorf("rcode %s: %q", name, f.Rcode)
		}
	}
	for _, name := range SourceNames() {
		if f := (Filter{Source: name}); f.Normalize() != nil || f.Source != name {
			t.Errorf("source %s: %q", name, f.Source)
		}
	}
	for _, name := range TypeNames() {
		if f := (Filter{Type: name}); f.Normalize() != nil || f.Type != name {
			t.Errorf("type %s: %q", name, f.Type)
		}
	}
}
