// SPDX-License-Identifier: Apache-2.0

//go:build race

package main

// raceDetector reports whether this program was built with the race detector, which takes
// several times the memory.
const raceDetector = true
