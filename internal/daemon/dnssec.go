// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"sotto/forwarder/dnssec"
	"sotto/internal/config"
	"sotto/internal/status"
)

// scopeMark separates the name of a group from the key of what is done with its answers in a scope.
// It does not occur in names of groups.
const scopeMark = "+"

// scope returns the scope of a group's answers in the cache. Answers that were validated or changed
// (DNS64, rebinding) differently, before a reload or a restart, are in another one.
func (t table) scope(name string) string {
	if m := t[name]; m != nil {
		return scopeOf(name, m.treatment)
	}
	return scopeOf(name, "")
}

// scopeOf returns the scope of a group with that name and that key of what is done with its answers;
// "": nothing.
func scopeOf(name, treatment string) string {
	if name == config.DefaultGroup {
		name = ""
	}
	if treatment != "" {
		name += scopeMark + treatment
	}
	return name
}

// validation returns the counters of the validation of the group with that key, or nil if it does
// not validate.
func (g *groups) validation(key string) *dnssec.Stats {
	g.mu.Lock()
	defer g.mu.Unlock()
	m := g.inForce[key]
	if m == nil || m.validated == nil {
		return nil
	}
	st := m.validated.Stats()
	return &st
}

func validationStatus(st *dnssec.Stats) *status.Validation {
	if st == nil {
		return nil
	}
	return &status.Validation{
		Secure: st.Secure, Insecure: st.Insecure, Bogus: st.Bogus, Failed: st.Failed, Unvalidated: st.Unvalidated,
		Synthesized: st.Synthesized, Lookups: st.Queries, Signatures: st.Signatures,
	}
}

// flushDenials removes what validators know about names that do not exist.
func (g *groups) flushDenials() {
	g.mu.Lock()
	defer g.mu.Unlock()
	for m := range g.open {
		for _, f := range m.answers.Flushed {
			f()
		}
	}
}
