// SPDX-License-Identifier: Apache-2.0

package status

import (
	"fmt"
	"strings"
	"text/tabwriter"
)

// foundTexts are the ways in which a nameserver's server was found.
var foundTexts = map[string]string{
	"known": "a known public resolver",
	"tls":   "DNS over TLS with a certificate for its address",
	"ddr":   "the server that it designates (DDR)",
}

// explain describes where a query for the nameserver goes.
func (n *Nameserver) explain(fallback string) string {
	other := "fails"
	if fallback != "" {
		other = "goes to the group " + fallback
	}
	switch n.State {
	case "encrypted":
		return fmt.Sprintf("%s, %s", n.Server, foundTexts[n.Found])
	case "fallback":
		return fmt.Sprintf("the query %s: %s", other, Printable(n.Error))
	}
	return fmt.Sprintf("the nameserver, if it offers an encrypted transport, which is not known yet; otherwise the query %s", other)
}

// nameservers returns a table with one line for each nameserver.
func (g *Group) nameservers(style Style) string {
	if len(g.Nameservers) == 0 {
		return ""
	}
	var table strings.Builder
	w := tabwriter.NewWriter(&table, 0, 0, 2, ' ', 0)
	fmt.Fprintf(w, "  Nameserver\t%s\tqueries\tfallback\tits server\n", style.mark(normal, "state"))
	for _, n := range g.Nameservers {
		server := n.Server
		switch {
		case n.Found != "":
			server += " (" + n.Found + ")"
		case n.Error != "":
			server = Printable(n.Error)
		}
		fmt.Fprintf(w, "  %s\t%s\t%d\t%d\t%s\n", n.Nameserver.Addr(), style.state(n.State), n.Queries, n.Fallbacks, server)
	}
	_ = w.Flush() // to memory
	return table.String()
}
