// SPDX-License-Identifier: Apache-2.0

//go:build !race

package e2e

// RaceDetector is documented in race_on.go.
const RaceDetector = false
