// SPDX-License-Identifier: Apache-2.0

// Package archtest has no code: its tests hold the rules that bind the whole tree,
// which docs/ARCHITECTURE.md explains.
package archtest
