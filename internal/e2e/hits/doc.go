// SPDX-License-Identifier: Apache-2.0

// Package hits tests the answers that the kernel gives in the place of the listener.
package hits
