// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/xml"
	"fmt"
	"strings"
	"unicode"
)

// Dimensions in pixels. A character of common monospaced fonts is 0.6 times as wide as high.
const (
	fontSize   = 14
	cellWidth  = 8.4
	cellHeight = 18
	baseline   = 14 // below the top of a cell
	margin     = 12
)

const (
	background = "#14171c"
	foreground = "#d5dae1"
	faintText  = "#8b95a3"
)

// palette has the 16 colours of a terminal.
var palette = [16]string{
	"#14171c", "#f47067", "#6bc46d", "#daaa3f", "#6cb6ff", "#dcbdfb", "#56d4dd", "#d5dae1",
	"#8b95a3", "#ff938a", "#8ddb8c", "#eac55f", "#96d0ff", "#eedcff", "#76e3ea", "#ffffff",
}

// blocks are drawn as rectangles, because fonts differ in them: the n-th fills n eighths of a
// cell.
const blocks = " ▁▂▃▄▅▆▇█"

// svg draws the text of a terminal with a number of columns.
func svg(text string, columns int, title string) string {
	lines := parse(text)
	width, height := 2*margin+float64(columns)*cellWidth, 2*margin+len(lines)*cellHeight
	var b strings.Builder
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" width="%.0f" height="%d" viewBox="0 0 %.0f %d" role="img" `, width, height, width, height)
	fmt.Fprintf(&b, `font-family="ui-monospace, Menlo, Consolas, 'DejaVu Sans Mono', monospace" font-size="%d">`+"\n", fontSize)
	fmt.Fprintf(&b, "<title>%s</title>\n", escaped(title))
	fmt.Fprintf(&b, `<rect width="100%%" height="100%%" rx="8" fill="%s"/>`+"\n", background)
	for n, line := range lines {
		for _, r := range line {
			r.draw(&b, margin+n*cellHeight)
		}
	}
	b.WriteString("</svg>\n")
	return b.String()
}

// draw draws a run whose top is at y.
func (r run) draw(b *strings.Builder, y int) {
	colour := foreground
	switch {
	case r.colour >= 0:
		colour = palette[r.colour]
	case r.faint:
		colour = faintText
	}
	x, width := margin+float64(r.column)*cellWidth, float64(len(r.text))*cellWidth
	if r.reverse {
		fmt.Fprintf(b, `<rect x="%.1f" y="%d" width="%.1f" height="%d" fill="%s"/>`+"\n", x, y, width, cellHeight, colour)
		colour = background
	}
	if r.underline {
		fmt.Fprintf(b, `<rect x="%.1f" y="%d" width="%.1f" height="1" fill="%s"/>`+"\n", x, y+cellHeight-1, width, colour)
	}
	r.drawBlocks(b, y, colour)
	r.drawText(b, y, colour)
}

// drawBlocks draws the bars of plots.
func (r run) drawBlocks(b *strings.Builder, y int, colour string) {
	var path strings.Builder
	for i, c := range r.text {
		if n := level(c); n > 0 {
			height := float64(n) * cellHeight / 8
			fmt.Fprintf(&path, "M%.1f %.1fh%.1fv%.1fh-%.1fz", margin+float64(r.column+i)*cellWidth, float64(y+cellHeight)-height, cellWidth, height, cellWidth)
		}
	}
	if path.Len() > 0 {
		fmt.Fprintf(b, `<path d="%s" fill="%s"/>`+"\n", path.String(), colour)
	}
}

// level is the number of eighths that a block fills; 0 for other characters.
func level(c rune) int {
	for n, block := range []rune(blocks) {
		if c == block {
			return n
		}
	}
	return 0
}

// drawText draws the words, each at its column: no font can shift the next one.
func (r run) drawText(b *strings.Builder, y int, colour string) {
	weight := ""
	if r.bold {
		weight = ` font-weight="bold"`
	}
	for i := 0; i < len(r.text); {
		end := i
		for end < len(r.text) && !unicode.IsSpace(r.text[end]) && level(r.text[end]) == 0 {
			end++
		}
		if end == i {
			i++
			continue
		}
		fmt.Fprintf(b, `<text x="%.1f" y="%d" textLength="%.1f" fill="%s"%s>%s</text>`+"\n", margin+float64(r.column+i)*cellWidth, y+baseline,
			float64(end-i)*cellWidth, colour, weight, escaped(string(r.text[i:end])))
		i = end
	}
}

func escaped(s string) string {
	var b strings.Builder
	_ = xml.EscapeText(&b, []byte(s)) // writes to a Builder do not fail
	return b.String()
}
