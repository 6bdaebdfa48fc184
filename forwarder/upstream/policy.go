// SPDX-License-Identifier: Apache-2.0

package upstream

import "fmt"

// Policy is how the servers of a [Group] are chosen. Under each of them a server
// that fails or falls silent is asked after the others, and its queries in
// flight are asked again elsewhere.
type Policy string

// The policies.
const (
	// Failover asks the first server while it is well.
	Failover Policy = "failover"
	// Fastest asks the server whose replies come soonest.
	Fastest Policy = "fastest"
	// Random spreads queries evenly.
	Random Policy = "random"
	// Hedged asks the fastest server, and a second one when the first is later
	// than it usually is.
	Hedged Policy = "hedged"
)

// ParsePolicy reads the name of a policy.
func ParsePolicy(s string) (Policy, error) {
	switch p := Policy(s); p {
	case Failover, Fastest, Random, Hedged:
		return p, nil
	}
	return "", fmt.Errorf("read the policy %q: want one of failover, fastest, random, hedged", s)
}

// picker is the pure function that a policy consists of.
func (p Policy) picker() picker {
	switch p {
	case Fastest, Hedged:
		return fastest
	case Random:
		return random
	}
	return failover
}

// ranks reports whether the order comes from how fast servers are, so that those
// which are not asked have to be looked at now and then.
func (p Policy) ranks() bool { return p == Fastest || p == Hedged }
