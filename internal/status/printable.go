// SPDX-License-Identifier: Apache-2.0

package status

import (
	"strings"
	"unicode"
)

// Printable replaces control characters, which could control a terminal, and invisible ones. Any
// user can give a cgroup such a name, and any upstream can put them into the text of an error.
func Printable(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return '\uFFFD'
	}, s)
}
