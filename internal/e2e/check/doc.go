// SPDX-License-Identifier: Apache-2.0

// Package check tests `sotto check` on a healthy machine and on broken ones.
package check
