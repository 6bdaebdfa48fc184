// SPDX-License-Identifier: Apache-2.0

package rules

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"sotto/forwarder/wire"
)

// Rule is one line of policy. It takes a query that meets all its conditions,
// each of which is a list of alternatives; an empty list asks for nothing, so a
// rule with no condition takes every query.
type Rule struct {
	// Workloads are globs on the cgroup's path, with or without its first slash:
	// * is any run of characters within one level, ? one character, ** any run at
	// all. "**/" is any number of levels, none included, and "x/**" is x and all
	// below. A backslash is itself: systemd writes such names (foo\x2dbar.service).
	// A query whose workload is not known meets none.
	Workloads []string

	// Names are in presentation form (RFC 1035 §5.1), their last dot optional:
	// "corp.example" is that name and all below, "=corp.example" that name alone,
	// "." every name.
	Names []string

	// Nameservers are where the nameserver that was meant has to be. A query whose
	// nameserver is not known meets none.
	Nameservers []netip.Prefix

	// Types are query types: mnemonics, or TYPE123. ANY is the query for "any
	// type" (255) and not every query: for that leave Types empty.
	Types []string

	// Use is what becomes of the query. Here it is only carried ([Set.Use]).
	Use string
}

// Query is what rules look at.
type Query struct {
	Name       []byte // uncompressed wire name with its root byte, in any case
	Type       uint16
	Workload   string         // path of the cgroup; "": not known
	Nameserver netip.AddrPort // the nameserver that was meant; zero: not known
}

// Error is what is wrong with a rule.
type Error struct {
	Rule  int    // its number, from 1
	Field string // "names", "types", …
	Err   error  // what is wrong, and how to mend it
}

func (e *Error) Error() string { return fmt.Sprintf("rule %d: %s: %v", e.Rule, e.Field, e.Err) }

// Unwrap returns Err.
func (e *Error) Unwrap() error { return e.Err }

// conditions are those of a rule, but for its names.
type conditions struct {
	types       []uint16
	nameservers []netip.Prefix
	globs       []glob
}

// none reports whether every query meets the conditions.
func (c *conditions) none() bool { return len(c.types)+len(c.nameservers)+len(c.globs) == 0 }

// asked is what conditions look at.
type asked struct {
	typ        uint16
	nameserver netip.Addr // neither mapped nor with a zone; zero: not known
	workload   string     // without its first slash
	known      bool       // the workload is
}

func (q *Query) asked() asked {
	return asked{
		typ:        q.Type,
		nameserver: q.Nameserver.Addr().Unmap().WithZone(""),
		workload:   strings.TrimPrefix(q.Workload, "/"),
		known:      q.Workload != "",
	}
}

// met reports whether a query meets the conditions. Globs come last: they cost
// most. Their results are not kept, although workloads repeat: nearly every glob
// fails at its first bytes, which is cheaper than any look-up.
func (c *conditions) met(a *asked) bool {
	if len(c.types) > 0 && !slices.Contains(c.types, a.typ) {
		return false
	}
	if len(c.nameservers) > 0 && !containedIn(c.nameservers, a.nameserver) {
		return false
	}
	if len(c.globs) == 0 {
		return true
	}
	if !a.known {
		return false
	}
	for i := range c.globs {
		if c.globs[i].match(a.workload) {
			return true
		}
	}
	return false
}

// containedIn: no prefix contains the zero address.
func containedIn(prefixes []netip.Prefix, a netip.Addr) bool {
	for _, p := range prefixes {
		if p.Contains(a) {
			return true
		}
	}
	return false
}

// compile reads the conditions of r, the rule of that number.
func (r *Rule) compile(number int) (conditions, error) {
	var c conditions
	for _, s := range r.Types {
		t, ok := wire.ParseType(s)
		if !ok {
			return c, &Error{number, "types", fmt.Errorf("%q is no record type: write a mnemonic such as AAAA, or TYPE123", s)}
		}
		c.types = append(c.types, t)
	}
	for _, p := range r.Nameservers {
		p, err := checkPrefix(p)
		if err != nil {
			return c, &Error{number, "nameservers", err}
		}
		c.nameservers = append(c.nameservers, p)
	}
	for _, s := range r.Workloads {
		g, err := compileGlob(s)
		if err != nil {
			return c, &Error{number, "workloads", fmt.Errorf("%q: %w", cut(s), err)}
		}
		c.globs = append(c.globs, g)
	}
	return c, nil
}

// mappedBits are in front of an IPv4 address in a mapped one.
const mappedBits = 96

// checkPrefix returns p, of a mapped prefix the IPv4 one.
func checkPrefix(p netip.Prefix) (netip.Prefix, error) {
	if !p.IsValid() {
		return p, errors.New("a prefix is not valid: write one such as 10.0.0.0/8 or 2001:db8::/32")
	}
	if p != p.Masked() {
		return p, fmt.Errorf("%s has bits behind its length: write %s, or %s/%d for the one address",
			p, p.Masked(), p.Addr(), p.Addr().BitLen())
	}
	if !p.Addr().Is4In6() {
		return p, nil
	}
	if p.Bits() < mappedBits {
		return p, fmt.Errorf("%s is neither of IPv4 nor of IPv6: write 0.0.0.0/0 for all of IPv4", p)
	}
	return netip.PrefixFrom(p.Addr().Unmap(), p.Bits()-mappedBits), nil
}

// What is wrong with names that many would write so.
var (
	errStarName = errors.New(`a name covers all below it without a star: leave out "*." (\* is the label that is a star)`)
	errDotName  = errors.New("a name covers all below it without a dot in front: leave the dot out")
)

// appendName appends the wire form, in lower case, of one of a rule's names.
func appendName(dst []byte, s string) (name []byte, exact bool, err error) {
	text, exact := strings.CutPrefix(s, "=")
	switch {
	case strings.HasPrefix(text, "*."):
		return dst, exact, fmt.Errorf("%q: %w", cut(s), errStarName)
	case strings.HasPrefix(text, ".") && text != ".":
		return dst, exact, fmt.Errorf("%q: %w", cut(s), errDotName)
	}
	start := len(dst)
	dst, err = wire.AppendParsed(dst, text)
	if err != nil {
		return dst, exact, fmt.Errorf("%q: %w", cut(s), err)
	}
	for i := start; i < len(dst); i++ {
		dst[i] = lower(dst[i])
	}
	return dst, exact, nil
}

// lower may run over a whole wire name: lengths are below 'A'.
func lower(c byte) byte {
	if 'A' <= c && c <= 'Z' {
		return c + ('a' - 'A')
	}
	return c
}
