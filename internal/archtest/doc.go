// SPDX-License-Identifier: Apache-2.0

// Package archtest has no code: its tests check rules for the whole tree, which
// docs/ARCHITECTURE.md explains.
package archtest
