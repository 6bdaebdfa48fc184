// SPDX-License-Identifier: Apache-2.0

package check

import (
	"fmt"
	"io"
	"strings"
)

// Colours of ECMA-48.
var colours = map[State]string{OK: "\x1b[32m", Warning: "\x1b[33m", Failed: "\x1b[31m", Skipped: "\x1b[2m"}

const noColour = "\x1b[0m"

// Text writes a result for people.
func (r Result) Text(w io.Writer, colour bool) error {
	var b strings.Builder
	state := fmt.Sprintf("%-7s", r.State)
	if colour {
		state = colours[r.State] + state + noColour
	}
	fmt.Fprintf(&b, "%s %s: %s\n", state, r.Name, oneLine(r.Detail))
	if r.Fix != "" {
		fmt.Fprintf(&b, "        fix: %s\n", oneLine(r.Fix))
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// Summary writes the last line of a report for people.
func (r Report) Summary(w io.Writer) error {
	count := map[State]int{}
	for _, one := range r.Results {
		count[one.State]++
	}
	_, err := fmt.Fprintf(w, "\n%d ok, %d warnings, %d failed, %d skipped\n", count[OK], count[Warning], count[Failed], count[Skipped])
	return err
}

// oneLine replaces control characters: names of programs and certificates come from elsewhere.
func oneLine(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7F || r >= 0x80 && r < 0xA0 {
			return ' '
		}
		return r
	}, s)
}
