// SPDX-License-Identifier: Apache-2.0

// Package takeover tests the replacement of a running process, and stops and failures during it.
package takeover
