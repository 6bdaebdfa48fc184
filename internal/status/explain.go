// SPDX-License-Identifier: Apache-2.0

package status

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
)

// Explanation is what would happen to a query. `sotto explain --json` prints it.
type Explanation struct {
	Name       string `json:"name"`
	Type       string `json:"type"`
	Workload   string `json:"workload,omitempty"` // cgroup path
	Nameserver string `json:"nameserver,omitempty"`

	WorkloadName string `json:"workload_name,omitempty"` // that people know, such as "docker:web"

	Pod string `json:"pod,omitempty"` // of Kubernetes, if rules depend on it, and what is known about it

	Builtin string `json:"builtin,omitempty"` // name of the rule, if it is not in the configuration

	Rule   int    `json:"rule"`             // number of the rule that matches, from 1; 0: none
	Entry  string `json:"entry,omitempty"`  // of a file or list, by which the rule matches
	Source string `json:"source,omitempty"` // the file or URL that has the entry
	// SourceError is why no source was found: a file or list cannot be read any more.
	SourceError string `json:"source_error,omitempty"`

	Action string `json:"action"`           // see forwarder.Action
	Rcode  string `json:"rcode,omitempty"`  // of a query that is answered at once
	Reason string `json:"reason,omitempty"` // why

	Group   string   `json:"group,omitempty"` // upstream group of a query that is forwarded
	Policy  string   `json:"policy,omitempty"`
	Servers []string `json:"servers,omitempty"`
	// Original is what is known of the nameserver, if the group's upstream is "original", and
	// Fallback the group that gets the query if it offers nothing; "" if that fails.
	Original *Nameserver `json:"original,omitempty"`
	Fallback string      `json:"fallback,omitempty"`

	DNSSEC string `json:"dnssec,omitempty"` // whether the answer is validated; "" if the group does not validate

	Cache   string `json:"cache,omitempty"`    // what the cache has
	CacheDO string `json:"cache_do,omitempty"` // the same for clients that want signatures (DO=1)
}

var actionTexts = map[string]string{
	"forward":  "answered from the cache, or forwarded over TLS",
	"plain":    "sent to its original destination in plain DNS",
	"local":    "sent to the local resolver that the client asked",
	"refuse":   "refused",
	"nodata":   "answered: no record of that type",
	"nxdomain": "answered: the name does not exist",
	"null":     "answered with 0.0.0.0 and ::",
	"answer":   "answered with the addresses of the rule",

	"not-ready": "answered: try again later",
}

// Text writes the explanation for people.
func (e *Explanation) Text(out io.Writer) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintf(w, "Query\t%s %s\n", e.Name, e.Type)
	if e.Workload != "" {
		fmt.Fprintf(w, "Workload\t%s\n", Printable(e.Workload))
	}
	if e.WorkloadName != "" {
		fmt.Fprintf(w, "\t%s\n", Printable(e.WorkloadName))
	}
	if e.Pod != "" {
		fmt.Fprintf(w, "Pod\t%s\n", e.Pod)
	}
	if e.Nameserver != "" {
		fmt.Fprintf(w, "Nameserver\t%s\n", e.Nameserver)
	}
	rule := "none matches"
	if e.Rule > 0 {
		rule = fmt.Sprintf("%d", e.Rule)
	}
	if e.Builtin != "" {
		rule = fmt.Sprintf("%d (built in: %s)", e.Rule, e.Builtin)
	}
	fmt.Fprintf(w, "Rule\t%s\n", rule)
	if e.Source != "" {
		fmt.Fprintf(w, "List\t%s\nEntry\t%s\n", e.Source, e.Entry)
	}
	if e.SourceError != "" {
		fmt.Fprintf(w, "List\tunknown: %s\n", e.SourceError)
	}
	what := actionTexts[e.Action]
	if e.Rcode != "" && e.Action == "forward" {
		what = "answered at once"
	}
	if e.Rcode != "" {
		what += " (" + e.Rcode + ")"
	}
	fmt.Fprintf(w, "Result\t%s\n", what)
	if e.Reason != "" {
		fmt.Fprintf(w, "Reason\t%s\n", e.Reason)
	}
	if e.Group != "" {
		fmt.Fprintf(w, "Cache\t%s\n\t%s (with signatures)\n", e.Cache, e.CacheDO)
		if e.DNSSEC != "" {
			fmt.Fprintf(w, "DNSSEC\t%s\n", e.DNSSEC)
		}
		if e.Original != nil {
			fmt.Fprintf(w, "Upstreams\t%s (%s): %s\n", e.Group, e.Policy, e.Original.explain(e.Fallback))
			return w.Flush()
		}
		fmt.Fprintf(w, "Upstreams\t%s (%s): %s\n", e.Group, e.Policy, strings.Join(e.Servers, ", "))
	}
	return w.Flush()
}
