// SPDX-License-Identifier: Apache-2.0

package upstream

import (
	"fmt"

	"sotto/forwarder/upstream/transport"
)

// Profile determines whether a server that cannot be authenticated is used.
type Profile = transport.Profile

// The profiles.
const (
	Strict        = transport.Strict
	Opportunistic = transport.Opportunistic
)

// ParseProfile parses "strict" or "opportunistic"; "" means strict.
func ParseProfile(s string) (Profile, error) {
	if s == "" {
		return Strict, nil
	}
	for _, p := range []Profile{Strict, Opportunistic} {
		if s == p.String() {
			return p, nil
		}
	}
	return Strict, fmt.Errorf("read the profile %q: want strict or opportunistic (RFC 8310)", s)
}
