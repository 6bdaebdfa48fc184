// SPDX-License-Identifier: Apache-2.0

//go:build race

package e2e

// RaceDetector reports whether this program was built with the race detector, which takes
// several times the memory.
const RaceDetector = true
