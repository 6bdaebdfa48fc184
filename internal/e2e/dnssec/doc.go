// SPDX-License-Identifier: Apache-2.0

// Package dnssec contains only tests. They compare what `sotto serve` validates with unbound and
// BIND: zones that Debian's tools sign, under a root of their own, served by nsd, knot and BIND.
package dnssec
