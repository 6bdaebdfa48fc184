// SPDX-License-Identifier: Apache-2.0

//go:build !race

package e2e

// RaceDetector: see race_on_test.go.
const RaceDetector = false
