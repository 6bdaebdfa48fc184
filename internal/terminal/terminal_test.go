// SPDX-License-Identifier: Apache-2.0

package terminal

import (
	"io"
	"os"
	"strings"
	"testing"

	"sotto/internal/netlab/labtest"
)

// TestScreen: the text fits the terminal, and closing restores it.
func TestScreen(t *testing.T) {
	master, slave := labtest.Terminal(t, 80, 3)
	s, err := Open(slave)
	if err != nil || s == nil {
		t.Fatal(s, err)
	}
	for _, text := range []string{"a\nb\nc\n", "a\nb\nc\nd\n"} {
		if err := s.Show(text); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	want := enter + home + "a" + line + "b" + line + "c\x1b[K" + below + home + "a" + line + "b" + line + "… 2 more lines\x1b[K" + below + leave
	want = strings.ReplaceAll(want, "\r\n", "\r\r\n") // the terminal's output processing
	got := make([]byte, len(want))
	if _, err := io.ReadFull(master, got); err != nil || string(got) != want {
		t.Errorf("%v\n%q\nwant\n%q", err, got, want)
	}
}

// TestColours: only a terminal shows colours, unless its user does not want them.
func TestColours(t *testing.T) {
	_, slave := labtest.Terminal(t, 80, 24)
	pipe, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer pipe.Close()
	defer w.Close()
	for _, tc := range []struct {
		out           io.Writer
		noColor, term string
		want          bool
	}{
		{slave, "", "xterm", true}, {slave, "", "", true}, {slave, "1", "xterm", false}, {slave, "", "dumb", false},
		{w, "", "xterm", false}, {&strings.Builder{}, "", "xterm", false},
	} {
		env := map[string]string{"NO_COLOR": tc.noColor, "TERM": tc.term}
		if got := Colours(tc.out, func(name string) string { return env[name] }); got != tc.want {
			t.Errorf("%+v: %v", tc, got)
		}
	}
	if s, err := Open(w); s != nil || err != nil || s.Close() != nil {
		t.Errorf("a pipe: %v, %v", s, err)
	}
}
