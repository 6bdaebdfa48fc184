// SPDX-License-Identifier: Apache-2.0

// Package archtest contains only tests. They check rules that apply to the whole
// tree: import directions, license headers, and the test names in docs/SECURITY.md.
// docs/ARCHITECTURE.md explains the rules.
package archtest
