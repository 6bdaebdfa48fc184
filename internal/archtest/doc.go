// SPDX-License-Identifier: Apache-2.0

// Package archtest contains only tests. They enforce the rules that apply to the whole tree,
// which docs/ARCHITECTURE.md explains.
package archtest
