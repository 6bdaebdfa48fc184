// SPDX-License-Identifier: Apache-2.0

package references

import "testing"

func TestCrashes(t *testing.T) {
	for release, want := range map[string]bool{
		"5.10.0-46-cloud-amd64":         false,
		"6.12.95+deb12-cloud-amd64":     false,
		"6.19.2":                        false,
		"7.0.0-rc1":                     true,
		"7.2.12+deb14-cloud-amd64":      true,
		"10.1":                          true,
		"a kernel that names no number": true,
	} {
		if got := Crashes(release); got != want {
			t.Errorf("%s: %v, want %v", release, got, want)
		}
	}
}
