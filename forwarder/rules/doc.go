// SPDX-License-Identifier: Apache-2.0

// Package rules decides which rule a query falls under: one concept for split
// horizon, exceptions, per-workload policy and blocking. It is pure: no sockets,
// no clock, no files, and it knows nothing of what a rule's Use means. Its caller
// is what resolves that, and hands it the configuration.
//
//   - [Compile] checks a list of [Rule] and makes a [Set] of it.
//   - [Set.Match] finds the first rule in the list's order that takes a query.
//   - [ReadNames] reads a list of names from a file, for rules with a great many.
//
// What it promises: Match costs at most one look-up a label of the name asked for,
// however many names the rules have; beyond that, one check for each rule that has
// such a name and comes before the one that takes the query. It allocates nothing
// and takes no lock. A million names under one rule take some forty bytes each.
// What Compile does not take it says by number, field and mend.
//
// A Set is immutable and safe for concurrent use.
package rules
