// SPDX-License-Identifier: Apache-2.0

// Package terminal finds out what the output of a command is, and shows a text that changes.
package terminal

import (
	"fmt"
	"io"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// Is reports whether w is a terminal.
func Is(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return err == nil
}

// Colours reports whether w shows colours: it is a terminal, $NO_COLOR is empty (no-color.org),
// and $TERM is not that of a terminal without control sequences.
func Colours(w io.Writer, getenv func(string) string) bool {
	return Is(w) && getenv("NO_COLOR") == "" && getenv("TERM") != "dumb"
}

// Control sequences (xterm's ctlseqs): the alternate screen leaves the contents and the scrollback
// of the normal one unchanged.
const (
	enter = "\x1b[?1049h\x1b[?25l\x1b[?7l" // alternate screen, no cursor, no wrapping of long lines
	leave = "\x1b[?7h\x1b[?25h\x1b[?1049l"
	home  = "\x1b[H"
	line  = "\x1b[K\r\n" // clear the rest of the line
	below = "\x1b[J"     // clear the rest of the screen
)

// Screen shows one text at a time on the alternate screen of a terminal.
type Screen struct{ f *os.File }

// Open switches the terminal w to its alternate screen. The caller calls [Screen.Close]. It returns
// nil if w is not a terminal.
func Open(w io.Writer) (*Screen, error) {
	if !Is(w) {
		return nil, nil
	}
	s := &Screen{w.(*os.File)}
	_, err := io.WriteString(s.f, enter)
	return s, err
}

// Show replaces the text that is shown. Lines that do not fit are left out.
func (s *Screen) Show(text string) error {
	lines := strings.Split(strings.TrimSuffix(text, "\n"), "\n")
	if size, err := unix.IoctlGetWinsize(int(s.f.Fd()), unix.TIOCGWINSZ); err == nil && size.Row > 1 && len(lines) > int(size.Row) {
		hidden := len(lines) - int(size.Row) + 1
		lines = append(lines[:size.Row-1], fmt.Sprintf("… %d more lines", hidden))
	}
	_, err := io.WriteString(s.f, home+strings.Join(lines, line)+"\x1b[K"+below)
	return err
}

// Close switches back to the normal screen. Close of nil does nothing.
func (s *Screen) Close() error {
	if s == nil {
		return nil
	}
	_, err := io.WriteString(s.f, leave)
	return err
}
