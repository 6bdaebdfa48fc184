// SPDX-License-Identifier: Apache-2.0

package takeover

import (
	"encoding/json"
	"fmt"
)

// Version is the version of this process's [Terms]. Version 0 knows neither MsgReplaced nor
// MsgTaken.
const Version = 1

// Terms describe the successor, and what both processes must agree on.
type Terms struct {
	Prefix4 string   `json:"prefix4"`
	Prefix6 string   `json:"prefix6"`
	Cgroups []string `json:"cgroups"` // directories

	Version  int    `json:"version"`
	Identity string `json:"identity"` // see Lineage; "" if unknown
	Back     bool   `json:"back"`     // take over even from a process that has replaced this one
}

// ParseTerms reads the terms of a request.
func ParseTerms(text []byte) (t Terms, err error) {
	if err := json.Unmarshal(text, &t); err != nil {
		return t, fmt.Errorf("parse the terms of the takeover: %w", err)
	}
	return t, nil
}

// Check returns an error if a process with terms t cannot take over from one with the terms
// current.
func (t Terms) Check(current Terms) error {
	for _, p := range [][3]string{{"prefix4", t.Prefix4, current.Prefix4}, {"prefix6", t.Prefix6, current.Prefix6}} {
		if p[1] != p[2] {
			return fmt.Errorf("the running Sotto has %s %s, the new one %s: virtual addresses in use are valid only in the same network; keep it, or stop the running Sotto first", p[0], p[2], p[1])
		}
	}
	sealed := map[string]bool{}
	for _, g := range t.Cgroups {
		sealed[g] = true
	}
	for _, g := range current.Cgroups {
		if !sealed[g] {
			return fmt.Errorf("the running Sotto seals cgroup %s, the new one does not: add it, or stop the running Sotto first", g)
		}
	}
	return nil
}
