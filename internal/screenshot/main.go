// SPDX-License-Identifier: Apache-2.0

// Command screenshot draws the text of a terminal as SVG. It reads what
// `tmux capture-pane -e -p` prints, and writes the picture to standard output.
// scripts/screenshots.sh uses it for the pictures in README.md.
package main

import (
	"flag"
	"fmt"
	"io"
	"os"
)

func main() {
	title := flag.String("title", "", "`text` for readers that cannot see the picture")
	columns := flag.Int("columns", 80, "`width` of the terminal")
	flag.Parse()
	text, err := io.ReadAll(os.Stdin)
	if err == nil {
		_, err = os.Stdout.WriteString(svg(string(text), *columns, *title))
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "screenshot:", err)
		os.Exit(1)
	}
}
