// SPDX-License-Identifier: Apache-2.0

// Package path tests that sotto run notices filters of other software that block queries, and
// that its log names the filter and a change after which queries are answered.
package path
