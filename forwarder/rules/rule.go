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

// Rule is one rule. It matches a query that meets all its conditions. Each condition is a
// list of alternatives; an empty list is no condition, so a rule without conditions matches
// every query.
type Rule struct {
	// Workloads are globs for the cgroup's path, with or without its first slash: *
	// matches any characters within one level, ? one character, ** any characters. "**/"
	// matches any number of levels, including none, and "x/**" matches x and everything
	// below. A backslash has no special meaning, since names of systemd have some
	// (foo\x2dbar.service). A query whose workload is not known matches no glob.
	Workloads []string

	// Names are in presentation form (RFC 1035 §5.1); the last dot is optional.
	// "corp.example" matches that name and all below, "=corp.example" only that name,
	// "." every name.
	Names []string

	// NoNames is set if a rule whose Names come from lists has none yet. Without any name it
	// matches no query, instead of every one.
	NoNames bool

	// Nameservers are prefixes for the original destination. A query whose original
	// destination is not known matches none.
	Nameservers []netip.Prefix

	// Types are query types: mnemonics, or TYPE123. ANY means the query type 255. To
	// match every type, leave Types empty.
	Types []string

	// RD, unless nil, is the value of the flag RD (recursion desired) that the query has.
	// The flag belongs to QUERY, so messages with another opcode never match.
	RD *bool

	// Opcodes are mnemonics or numbers of [wire.ParseOpcode]: QUERY, NOTIFY or UPDATE.
	// Messages with another opcode are answered before the rules.
	Opcodes []string

	// Pods are globs for NAMESPACE/NAME of the Kubernetes pod, as for Workloads. PodLabels and
	// NamespaceLabels are selectors for the labels of the pod and of its namespace: KEY=VALUE,
	// KEY!=VALUE, KEY or !KEY, and several of these that have to be met at once are separated by
	// commas. OptedOut matches pods that ask not to be sealed. A workload that is not a pod
	// matches none of them.
	Pods, PodLabels, NamespaceLabels []string
	OptedOut                         bool

	// IfKnown is set if the rule does not match a pod whose name or labels it needs and which
	// are not known. Without it, [Set.Match] returns [UnknownPod] for a query to which only such
	// a condition is open.
	IfKnown bool

	// Use determines what happens to the query. It is only passed on ([Set.Use]).
	Use string
}

// Query has the properties of a query that rules depend on.
type Query struct {
	Name       []byte // uncompressed wire name with its root byte, in any case
	Type       uint16
	Opcode     uint8
	RD         bool
	Workload   string         // path of the cgroup; "": not known
	Pod        *Pod           // nil: the workload is not a pod
	Nameserver netip.AddrPort // original destination; zero: not known
}

// Error is an error in a rule.
type Error struct {
	Rule  int    // its number, from 1
	Field string // "names", "types", …
	Err   error  // the reason and the fix
}

func (e *Error) Error() string { return fmt.Sprintf("rule %d: %s: %v", e.Rule, e.Field, e.Err) }

// Unwrap returns Err.
func (e *Error) Unwrap() error { return e.Err }

// conditions are a rule's conditions except its names.
type conditions struct {
	types       []uint16
	opcodes     []uint8
	rd          recursion
	nameservers []netip.Prefix
	globs       []glob
	pods        podConditions
}

// recursion is a condition on the flag RD.
type recursion uint8

const (
	anyRD recursion = iota
	withRD
	withoutRD
)

// none reports whether there are no conditions.
func (c *conditions) none() bool {
	return len(c.types)+len(c.opcodes)+len(c.nameservers)+len(c.globs) == 0 && c.rd == anyRD && c.pods.none()
}

// properties are those of a query, except its name, in the form that conditions need.
type properties struct {
	typ        uint16
	opcode     uint8
	rd         recursion  // anyRD: the opcode has no such flag
	nameserver netip.Addr // not mapped, without a zone; zero: not known
	workload   string     // without its first slash
	known      bool       // the workload is known
	pod        *Pod
}

func (q *Query) properties() properties {
	rd := anyRD
	switch {
	case q.Opcode != wire.OpcodeQuery:
	case q.RD:
		rd = withRD
	default:
		rd = withoutRD
	}
	return properties{
		typ:        q.Type,
		opcode:     q.Opcode,
		rd:         rd,
		nameserver: q.Nameserver.Addr().Unmap().WithZone(""),
		workload:   strings.TrimPrefix(q.Workload, "/"),
		known:      q.Workload != "",
		pod:        q.Pod,
	}
}

// met reports whether a query meets the conditions, or may meet them. Globs are the most
// expensive and come last. Their results are not cached although workloads repeat: most globs fail at their
// first bytes, which is cheaper than a lookup.
func (c *conditions) met(p *properties) bool {
	if len(c.types) > 0 && !slices.Contains(c.types, p.typ) {
		return false
	}
	if len(c.opcodes) > 0 && !slices.Contains(c.opcodes, p.opcode) {
		return false
	}
	if c.rd != anyRD && c.rd != p.rd {
		return false
	}
	if len(c.nameservers) > 0 && !anyContains(c.nameservers, p.nameserver) {
		return false
	}
	if len(c.globs) > 0 && (!p.known || !anyMatches(c.globs, p.workload)) {
		return false
	}
	return c.pods.none() || c.pods.met(p.pod) != isFalse
}

// anyContains reports whether a prefix contains the address. None contains the zero Addr.
func anyContains(prefixes []netip.Prefix, a netip.Addr) bool {
	for _, p := range prefixes {
		if p.Contains(a) {
			return true
		}
	}
	return false
}

// compile compiles the conditions of r. number is for errors.
func (r *Rule) compile(number int) (conditions, error) {
	var c conditions
	for _, s := range r.Types {
		t, ok := wire.ParseType(s)
		if !ok {
			return c, &Error{number, "types", fmt.Errorf("%q is not a record type: write a mnemonic such as AAAA, or TYPE123", s)}
		}
		c.types = append(c.types, t)
	}
	for _, s := range r.Opcodes {
		op, err := checkOpcode(s)
		if err != nil {
			return c, &Error{number, "opcodes", err}
		}
		c.opcodes = append(c.opcodes, op)
	}
	switch {
	case r.RD == nil:
	case len(c.opcodes) > 0 && !slices.Contains(c.opcodes, wire.OpcodeQuery):
		return c, &Error{number, "rd", errRDOpcode}
	case *r.RD:
		c.rd = withRD
	default:
		c.rd = withoutRD
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
	var err error
	c.pods, err = r.compilePods(number)
	return c, err
}

var errRDOpcode = errors.New("only QUERY has the flag RD, so the rule would never match: remove rd, or add QUERY to the opcodes")

// checkOpcode parses an opcode whose messages reach the rules.
func checkOpcode(s string) (uint8, error) {
	op, ok := wire.ParseOpcode(s)
	switch {
	case !ok:
		return 0, fmt.Errorf("%q is not an opcode: want QUERY, NOTIFY, UPDATE or their number", cut(s))
	case !wire.HasQuestion(op):
		return 0, fmt.Errorf("%s messages are always answered with NOTIMP, so the rule would never match: want QUERY, NOTIFY or UPDATE", wire.OpcodeName(op))
	}
	return op, nil
}

// mappedBits is the length of the prefix of IPv4-mapped IPv6 addresses.
const mappedBits = 96

// checkPrefix returns p, or for an IPv4-mapped prefix the IPv4 prefix.
func checkPrefix(p netip.Prefix) (netip.Prefix, error) {
	if !p.IsValid() {
		return p, errors.New("a prefix is not valid: write one such as 10.0.0.0/8 or 2001:db8::/32")
	}
	if p != p.Masked() {
		return p, fmt.Errorf("%s has bits set beyond its length: write %s, or %s/%d for the single address",
			p, p.Masked(), p.Addr(), p.Addr().BitLen())
	}
	if !p.Addr().Is4In6() {
		return p, nil
	}
	if p.Bits() < mappedBits {
		return p, fmt.Errorf("%s is neither an IPv4 nor an IPv6 prefix: write 0.0.0.0/0 for all of IPv4", p)
	}
	return netip.PrefixFrom(p.Addr().Unmap(), p.Bits()-mappedBits), nil
}

// Errors of forms that other programs use.
var (
	errStarName = errors.New(`a name includes all below it without a star: remove "*." (\* is a label that is a star)`)
	errDotName  = errors.New("a name includes all below it without a leading dot: remove the dot")
)

// appendName appends the lower-case wire form of a rule's name.
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
		dst[i] = wire.Lower(dst[i])
	}
	return dst, exact, nil
}
