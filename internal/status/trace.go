// SPDX-License-Identifier: Apache-2.0

package status

import (
	"fmt"
	"io"
	"time"

	"sotto/internal/observe"
)

// TraceLine writes one query of a trace for people, with its time in the location loc.
func TraceLine(w io.Writer, r *observe.Record, loc *time.Location, style Style) {
	if r.Lost > 0 {
		fmt.Fprintf(w, "… %d queries were lost here, because this trace was read too slowly\n", r.Lost)
	}
	from := friendly(r.WorkloadName, r.Workload)
	if from == "" && r.Client.IsValid() {
		from = r.Client.Addr().String()
	}
	if from == "" {
		from = "unknown"
	}
	if r.Process != (observe.Process{}) {
		from += " " + process(r.Process)
	}
	to := ""
	if r.Nameserver.IsValid() {
		to = " @" + r.Nameserver.Addr().String()
	}
	question := " " + r.Name + " " + r.Type
	if r.Type == "" {
		question = " -" // it could not be read
	}
	fmt.Fprintf(w, "%s %s%s%s → ", r.Time.In(loc).Format("15:04:05.000"), from, to, question)
	if r.Dropped == "" {
		fmt.Fprintf(w, "%s %s %s", style.rcode(r.Rcode), style.mark(dim, r.Source), traceTime(r.Millis))
	} else {
		fmt.Fprintf(w, "%s %s %s", style.mark(red, outcome(r)), style.mark(dim, r.Source), r.Dropped)
	}
	if r.Proto == "tcp" {
		io.WriteString(w, " tcp")
	}
	if r.Rule > 0 {
		fmt.Fprintf(w, " rule=%d", r.Rule)
	}
	if r.Server != "" {
		fmt.Fprintf(w, " by %s", style.mark(dim, Printable(r.Server)))
	}
	if r.Error != "" {
		fmt.Fprintf(w, " (%s)", Printable(r.Error))
	}
	io.WriteString(w, "\n")
}

// outcome is what happened to a query without a reply.
func outcome(r *observe.Record) string {
	switch {
	case r.Passed:
		return "left-in-the-clear"
	case r.Source == observe.FromHooks:
		return "refused"
	}
	return "dropped"
}

// process returns the name and the PID of a process: "curl[1234]", or "unknown".
func process(p observe.Process) string {
	if p.PID == 0 {
		return Printable(p.Comm)
	}
	return fmt.Sprintf("%s[%d]", Printable(p.Comm), p.PID)
}

func traceTime(ms float64) string {
	if ms < 1 {
		return fmt.Sprintf("%.0fµs", 1000*ms)
	}
	return fmt.Sprintf("%.1fms", ms)
}
