// SPDX-License-Identifier: Apache-2.0

package top

import "github.com/charmbracelet/x/ansi"

// helpText explains the figures. With all keys the help has 24 lines of at most 80 columns.
var helpText = []string{
	"Rates, times and shares are averages in which the last five seconds weigh half.",
	"Time: from query to reply; of an upstream, the usual time of its replies.",
	"Failed: SERVFAIL or an error. Other: all that is not counted separately.",
}

// helpLines is the help screen.
func (m *Model) helpLines() []string {
	const keyWidth = 11
	out := []string{bold.Styled("sotto top")}
	out = append(out, helpText...)
	for _, b := range bindings {
		out = append(out, bold.Styled(fit(b.label, keyWidth))+b.help)
	}
	for i, line := range out {
		out[i] = ansi.Truncate(line, m.width, "…")
	}
	return out[:min(len(out), m.height)]
}
