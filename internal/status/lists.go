// SPDX-License-Identifier: Apache-2.0

package status

import (
	"fmt"
	"io"
	"text/tabwriter"
	"time"
)

// List is a list of names that rules use. `sotto lists --json` prints it.
type List struct {
	URL     string    `json:"url"`
	File    string    `json:"file"`             // where it is stored
	Names   int       `json:"names"`            // 0 if it was never fetched
	Skipped int       `json:"skipped"`          // lines that are not names
	Fetched time.Time `json:"fetched,omitzero"` // when its names last changed
	Checked time.Time `json:"checked,omitzero"` // when the server last confirmed it
	Next    time.Time `json:"next,omitzero"`    // when it is fetched again
	Error   string    `json:"error,omitempty"`  // of the last attempt, if that failed
}

// ListsText writes lists for people, as of the time now.
func ListsText(out io.Writer, all []List, now time.Time) error {
	if len(all) == 0 {
		_, err := fmt.Fprintln(out, "no rule has lists")
		return err
	}
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	for i, l := range all {
		if i > 0 {
			fmt.Fprintln(w)
		}
		fmt.Fprintf(w, "List\t%s\n", l.URL)
		if l.Fetched.IsZero() {
			fmt.Fprint(w, "State\tnever fetched: its names are not matched yet\n")
		} else {
			fmt.Fprintf(w, "Names\t%d (%d other lines skipped)\n", l.Names, l.Skipped)
			fmt.Fprintf(w, "State\tchanged %s ago, checked %s ago\n", duration(now.Sub(l.Fetched)), duration(now.Sub(l.Checked)))
		}
		if l.Error != "" {
			fmt.Fprintf(w, "Error\t%s\n", l.Error)
		}
		fmt.Fprintf(w, "Next\tin %s\nFile\t%s\n", duration(max(l.Next.Sub(now), 0)), l.File)
	}
	return w.Flush()
}
