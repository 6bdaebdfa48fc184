// SPDX-License-Identifier: Apache-2.0

package order

import "fmt"

// Policy determines how the servers of a [Group] are selected. Under each policy, a server
// that fails or falls silent is asked after the others, and its queries in flight are sent
// to another one.
type Policy string

// The policies.
const (
	// Failover asks the first server while it is healthy.
	Failover Policy = "failover"
	// Fastest asks the server whose replies arrive soonest.
	Fastest Policy = "fastest"
	// Random distributes queries evenly.
	Random Policy = "random"
	// Hedged asks the fastest server, and a second one when the reply is later than usual.
	Hedged Policy = "hedged"
)

// ParsePolicy parses the name of a policy.
func ParsePolicy(s string) (Policy, error) {
	switch p := Policy(s); p {
	case Failover, Fastest, Random, Hedged:
		return p, nil
	}
	return "", fmt.Errorf("read the policy %q: want one of failover, fastest, random, hedged", s)
}

// Func returns the pure function that implements the policy.
func (p Policy) Func() Func {
	switch p {
	case Fastest, Hedged:
		return fastest
	case Random:
		return random
	}
	return failover
}

// Measures reports whether the order depends on the speed of servers, so that the servers
// that get no queries have to be measured now and then.
func (p Policy) Measures() bool { return p == Fastest || p == Hedged }
