// SPDX-License-Identifier: Apache-2.0

// Package rules finds the rule that a query matches: one concept for split horizon,
// exceptions, per-workload policy and blocking. It has no sockets, no clock and no files,
// and does not interpret a rule's Use: that is up to the caller, which also reads the
// configuration.
//
//   - [Compile] checks a list of [Rule] and compiles it into a [Set].
//   - [Set.Match] finds the first rule in the list that matches a query.
//   - A [Pod] is what rules may know about a Kubernetes pod. A rule never matches because
//     something is not known.
//   - [ReadNames] and [ScanNames] read a list of names, for rules with very many; [FindName]
//     finds the entry of a list that matches.
//
// It promises: Match needs at most one lookup per label of the query's name, however many
// names the rules have, and one check for each rule that has such a name and precedes the
// matching rule. It does not allocate and takes no lock. A million names in one rule use
// about forty bytes each. Errors of Compile give the rule's number, the field, and the fix.
//
// A Set is immutable and safe for concurrent use.
package rules
