// SPDX-License-Identifier: Apache-2.0

package upstream

import "fmt"

// Profile is a usage profile of RFC 8310 §5. Whichever it is, queries only ever go
// over TLS: the plain fallback that the RFC lets an opportunistic client have does
// not exist here.
type Profile uint8

const (
	// Strict: a server that is not authenticated gets no query.
	Strict Profile = iota

	// Opportunistic: a server that cannot be authenticated is used nevertheless, with
	// a warning in the log once for each reason, and [ServerStats.Unauthenticated].
	// That keeps queries from those who only listen. It does not protect from those
	// who can change what is sent, or make themselves the server: they can read every
	// query, and give every answer. Whoever can do that is not noticed either, but
	// for the warning.
	//
	// Each new connection tries to authenticate the server again, with a full
	// handshake. A server with [Server.Pins] is always held to Strict: who names a
	// key means it.
	Opportunistic
)

var profileNames = [...]string{Strict: "strict", Opportunistic: "opportunistic"}

// String is the profile's name, as [ParseProfile] reads it.
func (p Profile) String() string {
	if int(p) < len(profileNames) {
		return profileNames[p]
	}
	return fmt.Sprintf("Profile(%d)", uint8(p))
}

// ParseProfile reads "strict" or "opportunistic"; "" is strict.
func ParseProfile(s string) (Profile, error) {
	if s == "" {
		return Strict, nil
	}
	for p, name := range profileNames {
		if s == name {
			return Profile(p), nil
		}
	}
	return Strict, fmt.Errorf("read the profile %q: want strict or opportunistic (RFC 8310)", s)
}
