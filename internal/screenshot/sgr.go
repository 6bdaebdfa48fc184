// SPDX-License-Identifier: Apache-2.0

package main

import (
	"regexp"
	"strconv"
	"strings"
)

// style is how a part of a line looks.
type style struct {
	bold, faint, underline, reverse bool
	colour                          int // 0 to 15; -1: the default
}

// run is a part of a line with one style.
type run struct {
	style
	column int // of its first character
	text   []rune
}

var sgr = regexp.MustCompile(`^\x1b\[([0-9;]*)m`)

// parse splits the text of a terminal into lines of runs. It knows the sequences that set a style
// (SGR of ECMA-48). A style continues in the next line.
func parse(text string) (lines [][]run) {
	now := style{colour: -1}
	for line := range strings.SplitSeq(strings.TrimRight(text, "\n"), "\n") {
		var runs []run
		column := 0
		for line != "" {
			if m := sgr.FindStringSubmatch(line); m != nil {
				now.apply(m[1])
				line = line[len(m[0]):]
				continue
			}
			end := strings.IndexByte(line[1:], '\x1b') + 1
			if end == 0 {
				end = len(line)
			}
			part := []rune(line[:end])
			runs = append(runs, run{now, column, part})
			column += len(part)
			line = line[end:]
		}
		lines = append(lines, runs)
	}
	return lines
}

// apply changes the style by the parameters of a sequence. Others are ignored.
func (s *style) apply(parameters string) {
	for p := range strings.SplitSeq(parameters, ";") {
		n, _ := strconv.Atoi(p) // an empty parameter is 0
		switch {
		case n == 0:
			*s = style{colour: -1}
		case n == 1:
			s.bold = true
		case n == 2:
			s.faint = true
		case n == 4:
			s.underline = true
		case n == 7:
			s.reverse = true
		case n == 22:
			s.bold, s.faint = false, false
		case n == 24:
			s.underline = false
		case n == 27:
			s.reverse = false
		case n >= 30 && n <= 37:
			s.colour = n - 30
		case n == 39:
			s.colour = -1
		case n >= 90 && n <= 97:
			s.colour = n - 90 + 8
		}
	}
}
