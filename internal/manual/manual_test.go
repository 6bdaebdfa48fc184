// SPDX-License-Identifier: Apache-2.0

package manual

import (
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/cobra"
)

// TestPages compares a page, and the names of all.
func TestPages(t *testing.T) {
	root := &cobra.Command{Use: "tool", Short: "Do things"}
	sub := &cobra.Command{Use: "sub-do ARG… [flags]", Short: "Do one thing", Run: func(*cobra.Command, []string) {}, Long: `  tool sub-do a\b
  tool sub-do 'x'

Does it. The file
.profile is not read.

List:
  one  1
  two  2`}
	sub.Flags().StringP("out", "o", "", "`file` to write")
	root.AddCommand(sub, &cobra.Command{Use: "secret", Hidden: true, Run: sub.Run})
	pages := Pages(root, "v1")
	if names := slices.Sorted(maps.Keys(pages)); !slices.Equal(names, []string{"tool-sub-do.8", "tool.8"}) {
		t.Errorf("pages %v", names)
	}
	const want = `.TH "TOOL\-SUB\-DO" 8 "" "tool v1" "System Administration"
.nh
.ad l
.SH NAME
tool\-sub\-do \- Do one thing
.SH SYNOPSIS
.B tool sub\-do
ARG\[u2026] [flags]
.SH DESCRIPTION
.PP
Does it. The file
\&.profile is not read.
.PP
.nf
List:
  one  1
  two  2
.fi
.SH OPTIONS
.TP
.B \-h, \-\-help
help for sub\-do
.TP
.B \-o, \-\-out file
file to write
.SH EXAMPLES
.PP
.nf
  tool sub\-do a\eb
  tool sub\-do \(aqx\(aq
.fi
.SH EXIT STATUS
.PP
0 on success, 1 on failure, 2 for a wrong command line.
.SH SEE ALSO
.BR tool (8)
`
	if got := pages["tool-sub-do.8"]; got != want {
		t.Errorf("got:\n%s\nwant:\n%s", got, want)
	}
	sub.Long += "\n\nExit status:\n  3  it did"
	if got := Pages(root, "v1")["tool-sub-do.8"]; !strings.Contains(got, ".fi\n.SH OPTIONS\n") || !strings.Contains(got, "\n.SH EXIT STATUS\n.PP\n.nf\n  3  it did\n.fi\n.SH SEE ALSO\n") {
		t.Errorf("with an exit status of its own:\n%s", got)
	}
	if top := pages["tool.8"]; !strings.Contains(top, ".SH DESCRIPTION\n.PP\nDo things.\n") || !strings.Contains(top, ".BR tool\\-sub\\-do (8)\nDo one thing\n") || strings.Contains(top, "secret") {
		t.Errorf("the program's page:\n%s", top)
	}
}
