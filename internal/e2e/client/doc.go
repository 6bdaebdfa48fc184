// SPDX-License-Identifier: Apache-2.0

// Package client contains clients for the end-to-end tests: programs that send queries in ways
// that no existing tool does, generate load, or attack. A test binary runs as one of them; see
// package e2e. They check what a sealed program can see, and exit with an error if it differs
// from what an unsealed program would see. Only package e2e and tests may import it.
package client
