// SPDX-License-Identifier: Apache-2.0

//go:build race

package main

// raceDetector: it takes several times the memory.
const raceDetector = true
