// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/xml"
	"errors"
	"io"
	"reflect"
	"strings"
	"testing"
)

func TestParse(t *testing.T) {
	plain := style{colour: -1}
	got := parse("a\x1b[1;31mb c\x1b[22;39m\x1b[7m\x1b[4m \n▅\x1b[0;2md\x1b[mé\x1b[96me\x1b[27;24m\n\n")
	want := [][]run{
		{{plain, 0, []rune("a")}, {style{bold: true, colour: 1}, 1, []rune("b c")}, {style{reverse: true, underline: true, colour: -1}, 4, []rune(" ")}},
		{{style{reverse: true, underline: true, colour: -1}, 0, []rune("▅")}, {style{faint: true, colour: -1}, 1, []rune("d")}, {plain, 2, []rune("é")},
			{style{colour: 14}, 3, []rune("e")}},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %v\nwant %v", got, want)
	}
}

func TestSVG(t *testing.T) {
	got := svg("\x1b[1mab  <c>\x1b[0m\x1b[36m▄█\n\x1b[0;7mx", 10, "a & b")
	want := `<svg xmlns="http://www.w3.org/2000/svg" width="108" height="60" viewBox="0 0 108 60" role="img" font-family="ui-monospace, Menlo, Consolas, 'DejaVu Sans Mono', monospace" font-size="14">
<title>a &amp; b</title>
<rect width="100%" height="100%" rx="8" fill="#14171c"/>
<text x="12.0" y="26" textLength="16.8" fill="#d5dae1" font-weight="bold">ab</text>
<text x="45.6" y="26" textLength="25.2" fill="#d5dae1" font-weight="bold">&lt;c&gt;</text>
<path d="M70.8 21.0h8.4v9.0h-8.4zM79.2 12.0h8.4v18.0h-8.4z" fill="#56d4dd"/>
<rect x="12.0" y="30" width="8.4" height="18" fill="#d5dae1"/>
<text x="12.0" y="44" textLength="8.4" fill="#14171c">x</text>
</svg>
`
	if got != want {
		t.Errorf("got:\n%s\nwant:\n%s", got, want)
	}
	for d := xml.NewDecoder(strings.NewReader(got)); ; {
		if _, err := d.Token(); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
	}
}
