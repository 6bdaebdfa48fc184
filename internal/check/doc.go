// SPDX-License-Identifier: Apache-2.0

// Package check finds out whether this machine can run Sotto, what prevents it, and how to fix
// that. [Run] runs a list of checks, each of which returns its results; the parts that judge what
// was read are pure. It changes nothing that lasts: the sealed query creates a seal like that of
// `sotto exec` in a cgroup of its own and removes both.
//
// It runs without root as far as possible, and reports what was skipped.
package check
