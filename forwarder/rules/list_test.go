// SPDX-License-Identifier: Apache-2.0

package rules

import (
	"errors"
	"io"
	"slices"
	"strings"
	"testing"
	"testing/iotest"
)

func TestReadNames(t *testing.T) {
	const text = "\ufeff# a list\r\n\n  ads.example  # why\n=only.example.\n.\n" +
		"127.0.0.1 localhost\n::1 ip6-localhost ip6-loopback\nfe80::1%lo0 localhost\nff02::1 ip6-allnodes\n255.255.255.255 broadcasthost\n0.0.0.0 0.0.0.0\n" +
		"0.0.0.0\ta.example b.example #x\n:: c.example\n127.0.0.1 d.example\n" +
		"[Adblock Plus 2.0]\n! Title: x\n||ad.example^\n ||Ad2.example^$important\nq.example#comment\nr.example ## comment\n##.banner"
	want := []string{"ads.example", "=only.example.", ".", "=a.example", "=b.example", "=c.example", "=d.example",
		"ad.example", "Ad2.example", "q.example", "r.example"}
	got, err := ReadNames(strings.NewReader(text))
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("%q, %v: want %q", got, err, want)
	}
}

func TestReadNamesErrors(t *testing.T) {
	for _, c := range []struct{ line, want string }{
		{"a..b", `"a..b": it has an empty label`},
		{"*.ads.example", `"*.ads.example": a name includes all below it without a star`},
		{"0.0.0.0 a..b", `"=a..b": it has an empty label`},
		{"10.0.0.1", `"10.0.0.1": it is an address`},
		{"::1", `"::1": it is an address`},
		{"10.0.0.1 printer", `"10.0.0.1 printer": it assigns an address`},
		{"one two", `"one two": it has more than one word`},
		{"||ads.example", `"||ads.example": it is a filter or a URL`},
		{"||ads.example^$third-party", `"||ads.example^$third-party": it is a filter or a URL`},
		{"||ads*.example^", `"||ads*.example^": it is a filter`},
		{"||ads.example/x^", `"||ads.example/x^": it is a filter`},
		{"|ads.example", `"|ads.example": it is a filter`},
		{"ads.example^", `"ads.example^": it is a filter`},
		{"@@||ads.example^", `"@@||ads.example^": it is an exception`},
		{"ads.example##.banner", `"ads.example##.banner": it is a filter`},
		{"ads.example#@#.banner", `"ads.example#@#.banner": it is a filter`},
		{"https://ads.example/", `"https://ads.example/": it is a filter or a URL`},
		{"address=/ads.example/", `"address=/ads.example/": it is a filter`},
		{strings.Repeat("x", maxLine+1), "it is longer than 65536 bytes"},
	} {
		_, err := ReadNames(strings.NewReader("good.example\n#\n" + c.line + "\ngood.example"))
		if err == nil || !strings.HasPrefix(err.Error(), "line 3: "+c.want) {
			t.Errorf("%.40q: %v: want line 3: %s", c.line, err, c.want)
		}
	}
	broken := io.MultiReader(strings.NewReader("a\n"), iotest.ErrReader(io.ErrClosedPipe))
	if _, err := ReadNames(broken); !errors.Is(err, io.ErrClosedPipe) {
		t.Error(err)
	}
}

// TestFindName: the first entry that matches, in a list with lines of other kinds.
func TestFindName(t *testing.T) {
	const list = "<html>\n@@||x^\n0.0.0.0 a.example\nB.example\n||c.example^\nsub.c.example\n"
	for query, want := range map[string]string{
		"A.EXAMPLE": "=a.example", "x.a.example": "", "b.example": "B.example", "www.b.example": "B.example",
		"xb.example": "", "sub.c.example": "c.example", "example": "", ".": "",
	} {
		q := wireName(t, query)
		got, err := FindName(strings.NewReader(list), q)
		if got != want || err != nil {
			t.Errorf("%s: %q, %v: want %q", query, got, err, want)
		}
		if got != "" && !Includes(got, q) {
			t.Errorf("%s is not in %s", query, got)
		}
	}
}

// FuzzReadNames: Compile accepts the names that ReadNames returns.
func FuzzReadNames(f *testing.F) {
	f.Add("a.example\n# x\n0.0.0.0 b.example localhost\n")
	f.Add("=\\.a\n.\n:: x y # z")
	f.Fuzz(func(t *testing.T, text string) {
		names, err := ReadNames(strings.NewReader(text))
		if err != nil {
			if !strings.HasPrefix(err.Error(), "line ") {
				t.Error(err)
			}
			return
		}
		if _, err := Compile([]Rule{{Names: names}}); err != nil {
			t.Error(err)
		}
	})
}
