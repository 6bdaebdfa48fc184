// SPDX-License-Identifier: Apache-2.0

package rules

import (
	"errors"
	"fmt"
	"math"
	"net/netip"
	"slices"

	"sotto/forwarder/wire"
)

// noRule is not a valid rule number.
const noRule = math.MaxUint32

// node is one rule in the list of rules that have a name, in ascending order. Lists share
// their tails, and names with the same rules share the whole list, so a million names of
// one rule need one node.
type node struct {
	rule  uint32
	next  uint32 // the next node; 0: none
	exact bool   // for the name only, not for those below

	// all is the first rule in this node or later ones that matches every query for the
	// name and those below; self the first that matches every query for the name.
	all, self uint32
}

// Set is a compiled list of rules.
type Set struct {
	rules    []conditions
	uses     []string
	names    table
	nodes    []node // the first one marks the end of lists
	shadowed []int
}

// Compile checks rules and compiles them into a Set, which does not refer to them. The
// error is an [*Error] unless the rules are too large.
func Compile(rules []Rule) (*Set, error) {
	s := &Set{
		rules: make([]conditions, len(rules)),
		uses:  make([]string, len(rules)),
		nodes: []node{{all: noRule, self: noRule}},
	}
	names, size := 0, 0
	for i := range rules {
		r := &rules[i]
		c, err := r.compile(i + 1)
		if err != nil {
			return nil, err
		}
		s.rules[i], s.uses[i] = c, r.Use
		for _, n := range namesOf(r) {
			names++
			size += entryLen(len(n))
		}
	}
	if len(rules) >= math.MaxInt32 || uint64(size) >= maxArena {
		return nil, errors.New("compile the rules: the names exceed 4 GB: shorten a list")
	}
	s.names = newTable(names, size)
	// From the last to the first, so that each is prepended to its lists.
	for i := len(rules) - 1; i >= 0; i-- {
		if err := s.add(i, namesOf(&rules[i])); err != nil {
			return nil, err
		}
	}
	s.findShadowed(rules)
	return s, nil
}

// everything stands for the names of a rule without names.
var everything = []string{"."}

func namesOf(r *Rule) []string {
	if len(r.Names) == 0 && !r.NoNames {
		return everything
	}
	return r.Names
}

// add prepends rule i to the lists of its names.
func (s *Set) add(i int, names []string) error {
	var room [wire.MaxName]byte
	made := [2]map[uint32]uint32{{}, {}} // this rule's nodes by their next: not exact, exact
	for _, text := range names {
		name, exact, err := appendName(room[:0], text)
		if err != nil {
			return &Error{i + 1, "names", err}
		}
		at := s.names.add(name)
		next := s.names.list(at)
		if n := s.nodes[next]; next != 0 && n.rule == uint32(i) && n.exact == exact {
			continue // the rule has this name twice
		}
		memo := made[0]
		if exact {
			memo = made[1]
		}
		id, ok := memo[next]
		if !ok {
			id = s.newNode(uint32(i), exact, next)
			memo[next] = id
		}
		s.names.setList(at, id)
	}
	return nil
}

// newNode adds a node that prepends a rule to a list.
func (s *Set) newNode(rule uint32, exact bool, next uint32) uint32 {
	rest := s.nodes[next]
	n := node{rule: rule, next: next, exact: exact, all: rest.all, self: rest.self}
	if s.rules[rule].none() {
		n.self = rule
		if !exact {
			n.all = rule
			n.next = 0 // no query gets past this rule
		}
	}
	s.nodes = append(s.nodes, n)
	return uint32(len(s.nodes) - 1)
}

// Len returns the number of rules.
func (s *Set) Len() int { return len(s.rules) }

// UsesWorkload reports whether a rule has a condition on the workload or its pod.
func (s *Set) UsesWorkload() bool {
	return s.UsesPods() || slices.ContainsFunc(s.rules, func(c conditions) bool { return len(c.globs) > 0 })
}

// UsesPods reports whether a rule has a condition on the pod.
func (s *Set) UsesPods() bool {
	return slices.ContainsFunc(s.rules, func(c conditions) bool { return !c.pods.none() })
}

// UsesLabels reports whether a rule has a condition on what is known from the labels and
// annotations of pods and namespaces.
func (s *Set) UsesLabels() bool {
	return slices.ContainsFunc(s.rules, func(c conditions) bool {
		return len(c.pods.labels)+len(c.pods.namespaceLabels) > 0 || c.pods.optedOut
	})
}

// AppendClass appends what rules without conditions on pods can see of a workload and a nameserver:
// two pairs with the same result match the same rules, whatever else a query is. The workload is the
// path of its cgroup, or "" where it is not known.
func (s *Set) AppendClass(dst []byte, workload string, nameserver netip.AddrPort) []byte {
	q := Query{Workload: workload, Nameserver: nameserver}
	p := q.properties()
	for i := range s.rules {
		c := &s.rules[i]
		if len(c.nameservers)+len(c.globs) > 0 {
			only := conditions{nameservers: c.nameservers, globs: c.globs}
			dst = append(dst, '0')
			if only.met(&p) {
				dst[len(dst)-1] = '1'
			}
		}
	}
	return dst
}

// Use returns the Use of the rule with an index that Match returned.
func (s *Set) Use(i int) string { return s.uses[i] }

// Results of [Set.Match] that are not an index.
const (
	NoRule     = -1
	UnknownPod = -2 // a rule may match, but what it needs of the pod is not known
)

// Match returns the index of the first rule that matches q, [NoRule], or [UnknownPod]. A
// malformed name matches no rule.
func (s *Set) Match(q Query) int {
	var n name
	if len(s.rules) == 0 || !n.read(q.Name) {
		return NoRule
	}
	p := q.properties()
	best := uint32(noRule)
	for w := s.names.walk(&n); w.next(); {
		if w.list != 0 {
			best = s.first(w.list, w.whole(), best, &p)
		}
	}
	if best == noRule {
		return NoRule
	}
	if c := &s.rules[best].pods; !c.none() && c.met(p.pod) == isUnknown {
		return UnknownPod
	}
	return int(best)
}

// first returns the first rule of a list that matches a query, or best if that precedes
// it. whole is set if the list belongs to the query's name and not to one above it.
func (s *Set) first(list uint32, whole bool, best uint32, p *properties) uint32 {
	for list != 0 {
		n := &s.nodes[list]
		if n.rule >= best {
			return best
		}
		if (whole || !n.exact) && s.rules[n.rule].met(p) {
			return n.rule
		}
		list = n.next
	}
	return best
}

// Shadowed returns the indexes of rules that match no query, because each of their names is
// covered by an earlier rule without other conditions. That is valid, but probably a mistake.
func (s *Set) Shadowed() []int { return slices.Clone(s.shadowed) }

func (s *Set) findShadowed(rules []Rule) {
	// Only rules after one without conditions can be shadowed.
	first := slices.IndexFunc(s.rules, func(c conditions) bool { return c.none() })
	if first < 0 {
		return
	}
	for i := first + 1; i < len(rules); i++ {
		names := namesOf(&rules[i])
		if len(names) > 0 && !slices.ContainsFunc(names, func(text string) bool { return !s.covered(i, text) }) {
			s.shadowed = append(s.shadowed, i)
		}
	}
}

// covered reports whether rules before i match all queries for this name of rule i.
func (s *Set) covered(i int, text string) bool {
	var room [wire.MaxName]byte
	b, exact, err := appendName(room[:0], text)
	var n name
	if err != nil || !n.read(b) {
		return false // not reached: the name was added
	}
	for w := s.names.walk(&n); w.next(); {
		by := s.nodes[w.list].all
		if exact && w.whole() {
			by = s.nodes[w.list].self
		}
		if by < uint32(i) {
			return true
		}
	}
	return false
}

// String returns the size of the set, for logs.
func (s *Set) String() string {
	return fmt.Sprintf("%d rules, %d names", len(s.rules), s.names.count)
}
