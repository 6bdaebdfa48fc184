// SPDX-License-Identifier: Apache-2.0

package status

// Style decides how texts for people are marked. The zero value marks nothing.
type Style struct {
	// Colour is set for a terminal that shows colours (ECMA-48).
	Colour bool
}

// Select Graphic Rendition. All start sequences have the same length, so that marked cells of a
// column stay aligned.
const (
	normal = "\x1b[39m"
	red    = "\x1b[31m"
	green  = "\x1b[32m"
	yellow = "\x1b[33m"
	dim    = "\x1b[02m"
	reset  = "\x1b[0m"
)

func (s Style) mark(start, text string) string {
	if !s.Colour {
		return text
	}
	return start + text + reset
}

// state marks the state of a server or of the process.
func (s Style) state(text string) string {
	switch text {
	case "up", "ready", "encrypted":
		return s.mark(green, text)
	case "silent", "starting", "stopping", "fallback":
		return s.mark(yellow, text)
	case "down":
		return s.mark(red, text)
	}
	return s.mark(normal, text)
}

// rcode marks the codes of failures. That a name does not exist is not one.
func (s Style) rcode(text string) string {
	if text == "NOERROR" || text == "NXDOMAIN" {
		return text
	}
	return s.mark(red, text)
}

// level marks the level of a message.
func (s Style) level(text string) string {
	if text == "ERROR" {
		return s.mark(red, text)
	}
	return s.mark(yellow, text)
}
