// SPDX-License-Identifier: Apache-2.0

package status

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
)

const (
	// maxWorkloads and maxMessages limit what Text shows.
	maxWorkloads = 5
	maxMessages  = 5

	// expirySoon is when the expiry of a certificate is shown in any case.
	expirySoon = 14 * 24 * time.Hour
)

// Text writes the status for people, as of the time now, in lines of at most 80 columns as far
// as names permit.
func (s *Status) Text(out io.Writer, now time.Time, style Style) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintf(w, "Sotto\t%s, %s, up %s, PID %d\n", s.Version, style.state(s.State()), duration(now.Sub(s.Started)), s.PID)
	if s.Seal != nil {
		s.Seal.text(w)
	}
	fmt.Fprintf(w, "Rules\t%d\n", s.Rules)
	s.queries(w)
	if s.Cache != nil {
		fmt.Fprintf(w, "Cache\tanswers: %d, %s of %s, hit rate %.0f %%\n",
			s.Cache.Entries, size(s.Cache.Bytes), size(s.Cache.MaxBytes), 100*s.Cache.HitRate())
	}
	if c := s.SharedCache; c != nil {
		fmt.Fprintf(w, "Shared cache\t%s, %s: found %d, missed %d, late %d, failed %d, skipped %d\n",
			c.Address, style.state(c.State), c.Found, c.Misses, c.Timeouts, c.Errors+c.Invalid, c.Skipped+c.Busy)
		if c.LastError != "" {
			fmt.Fprintf(w, "\tlast error: %s\n", Printable(c.LastError))
		}
	}
	if s.Load.Overloaded+s.Load.OverShare > 0 {
		fmt.Fprintf(w, "Refused\t%d over capacity, %d over the share of a workload\n", s.Load.Overloaded, s.Load.OverShare)
	}
	for _, o := range s.Outputs {
		fmt.Fprintf(w, "%s\t%s: %d written, %d lost\n", strings.ToUpper(o.Kind[:1])+o.Kind[1:], o.Target, o.Written, o.Lost)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	for _, g := range s.Groups {
		if err := g.text(out, now, style); err != nil {
			return err
		}
	}
	s.workloads(w)
	if err := w.Flush(); err != nil {
		return err
	}
	return s.messages(out, now, style)
}

func (s *Seal) text(w io.Writer) {
	sealed := slices.Clone(s.Cgroups)
	for n, dir := range sealed {
		if slices.Contains(s.Missing, dir) {
			sealed[n] += " (does not exist now)"
		}
	}
	fmt.Fprintf(w, "Sealed\t%s\n", strings.Join(sealed, "\n\t"))
	if len(s.Exclude) > 0 {
		fmt.Fprintf(w, "Excluded\t%s\n", strings.Join(s.Exclude, "\n\t"))
	}
	fmt.Fprintf(w, "Addresses\t%s and %s, %d of %d in use\n", s.Prefix4, s.Prefix6, s.SlotsUsed, s.SlotsTotal)
	fmt.Fprintf(w, "Local resolvers\t%s\n", s.LocalResolvers)
	fmt.Fprintf(w, "Guard\t%s%s\n", s.Guard, counts(s.Counters, IsGuard))
	if k := &s.KernelAnswers; k.State == "on" {
		fmt.Fprintf(w, "Kernel answers\ton: %d of %d answers, given %d times\n", k.Entries, k.MaxEntries, k.Verdicts["answered"])
	} else {
		fmt.Fprintf(w, "Kernel answers\t%s: %s\n", k.State, Printable(k.Reason))
	}
}

// counts lists the counters that are selected and not zero, after a colon.
func counts(all map[string]uint64, selected func(string) bool) string {
	var list []string
	for _, name := range slices.Sorted(maps.Keys(all)) {
		if selected(name) && all[name] > 0 {
			list = append(list, fmt.Sprintf("%s %d", name, all[name]))
		}
	}
	if len(list) == 0 {
		return ""
	}
	return ": " + strings.Join(list, ", ")
}

func (s *Status) queries(w io.Writer) {
	fmt.Fprintf(w, "Queries\t%d%s\n", s.Queries.Total, counts(s.Queries.Source, func(string) bool { return true }))
	if s.Queries.Total > 0 {
		fmt.Fprintf(w, "Answers\t%s\n", strings.TrimPrefix(counts(s.Queries.Rcode, func(string) bool { return true }), ": "))
	}
	if len(s.Queries.Unanswered) > 0 {
		fmt.Fprintf(w, "Unanswered\t%s\n", strings.TrimPrefix(counts(s.Queries.Unanswered, func(string) bool { return true }), ": "))
	}
	if s.Queries.UpstreamP50Micros > 0 {
		fmt.Fprintf(w, "Upstream times\thalf below %s, 99 %% below %s\n", micros(s.Queries.UpstreamP50Micros), micros(s.Queries.UpstreamP99Micros))
	}
}

// text writes a table of the servers, with their notes between its lines.
func (g *Group) text(out io.Writer, now time.Time, style Style) error {
	var table strings.Builder
	w := tabwriter.NewWriter(&table, 0, 0, 2, ' ', 0)
	fmt.Fprintf(w, "Upstreams of %s (%s)\t%s\tusual\tp95\tqueries\tfailed\n", g.Name, g.Policy, style.mark(normal, "state"))
	for _, s := range g.Servers {
		fmt.Fprintf(w, "  %s\t%s\t%s\t%s\t%d\t%d\n", s.Server, style.state(s.State), millis(s.UsualMillis), millis(s.P95Millis), s.Queries, s.Failed)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	text := "\n"
	for i, line := range strings.SplitAfter(table.String(), "\n") {
		text += line
		if i == 0 || i > len(g.Servers) {
			continue
		}
		for _, note := range g.Servers[i-1].notes(now) {
			text += "    " + note + "\n"
		}
	}
	if g.DNSSEC != nil {
		text += "  " + g.DNSSEC.text() + "\n"
	}
	text += g.nameservers(style)
	_, err := io.WriteString(out, text)
	return err
}

// text describes the validation in a line.
func (v *Validation) text() string {
	bogus := uint64(0)
	for _, n := range v.Bogus {
		bogus += n
	}
	text := fmt.Sprintf("DNSSEC: %d secure, %d insecure, %d bogus%s", v.Secure, v.Insecure, bogus, counts(v.Bogus, func(string) bool { return true }))
	if v.Failed > 0 {
		text += fmt.Sprintf("; %d not validated because a lookup failed", v.Failed)
	}
	return text
}

// notes are what was found out about the server, and what is unusual about it.
func (s *Server) notes(now time.Time) (notes []string) {
	if s.Using != "" {
		notes = append(notes, "uses "+s.Using)
	}
	if len(s.Addresses) > 0 {
		notes = append(notes, "addresses: "+strings.Join(s.Addresses, ", "))
	}
	if s.LastError != "" {
		notes = append(notes, "last error: "+Printable(s.LastError))
	}
	if s.RetrySeconds > 0 {
		notes = append(notes, fmt.Sprintf("tried again in %.0f s", s.RetrySeconds))
	}
	if s.Unauthenticated != "" {
		notes = append(notes, "not authenticated: "+Printable(s.Unauthenticated))
	}
	if s.KeyExchange != "" && !strings.Contains(s.KeyExchange, "MLKEM") {
		notes = append(notes, "key exchange "+Printable(s.KeyExchange)+": not post-quantum")
	}
	if left := s.CertExpiry.Sub(now); !s.CertExpiry.IsZero() && left < expirySoon {
		notes = append(notes, "its certificate expires in "+duration(left))
	}
	return notes
}

func (s *Status) workloads(w io.Writer) {
	if len(s.Workloads) == 0 || s.Seal == nil {
		return
	}
	fmt.Fprintf(w, "\nWorkloads\tqueries\tfailed\tcached\n")
	for _, l := range s.Workloads[:min(len(s.Workloads), maxWorkloads)] {
		fmt.Fprintf(w, "  %s\t%d\t%d\t%d\n", friendly(l.WorkloadName, l.Name), l.Queries, l.Failed, l.Cached)
	}
	if more := len(s.Workloads) - maxWorkloads; more > 0 {
		fmt.Fprintf(w, "  and %d more\n", more)
	}
}

// friendly returns the name of a workload that people know, or else the path of its cgroup.
func friendly(name, path string) string {
	if name == "" {
		name = path
	}
	return Printable(name)
}

func (s *Status) messages(out io.Writer, now time.Time, style Style) error {
	if len(s.Messages) == 0 {
		return nil
	}
	_, err := fmt.Fprintf(out, "\nLatest warnings and errors\n")
	for _, m := range s.Messages[:min(len(s.Messages), maxMessages)] {
		if err == nil {
			_, err = fmt.Fprintf(out, "  %s ago  %s: %s\n", duration(now.Sub(m.Time)), style.level(m.Level), Printable(m.Text))
		}
	}
	return err
}

// duration rounds for people: 3d4h, 2h5m, 4m10s, 7s.
func duration(d time.Duration) string {
	switch {
	case d < 0:
		return "-" + duration(-d)
	case d >= 24*time.Hour:
		return fmt.Sprintf("%dd%dh", d/(24*time.Hour), d%(24*time.Hour)/time.Hour)
	case d >= time.Hour:
		return fmt.Sprintf("%dh%dm", d/time.Hour, d%time.Hour/time.Minute)
	case d >= time.Minute:
		return fmt.Sprintf("%dm%ds", d/time.Minute, d%time.Minute/time.Second)
	}
	return fmt.Sprintf("%ds", d/time.Second)
}

func millis(ms float64) string {
	if ms == 0 {
		return "-"
	}
	return fmt.Sprintf("%.1f ms", ms)
}

func micros(us int64) string {
	if us < 1000 {
		return fmt.Sprintf("%d µs", us)
	}
	return fmt.Sprintf("%.0f ms", float64(us)/1000)
}

func size(bytes int64) string {
	switch {
	case bytes < 1<<10:
		return fmt.Sprintf("%d B", bytes)
	case bytes < 1<<20:
		return fmt.Sprintf("%d KiB", bytes>>10)
	}
	return fmt.Sprintf("%.1f MiB", float64(bytes)/(1<<20))
}
