// SPDX-License-Identifier: Apache-2.0

package benchreport

import (
	"fmt"
	"strings"
)

// Markdown is docs/BENCHMARKS.md.
func (res Results) Markdown() string {
	var b strings.Builder
	fmt.Fprintf(&b, intro, res.Meta["cores"], res.Meta["kernel"], res.Meta["rounds"], res.Meta["seconds"])
	b.WriteString("## What Sotto sets out to reach\n\n| goal | measured | |\n|---|---|---|\n")
	for _, v := range res.Verdicts() {
		fmt.Fprintf(&b, "| %s | %s | %s |\n", v.Goal, v.Figure, v.State)
	}
	b.WriteString("\n## Ratios\n\n" + ratiosIntro)
	res.table(&b, func(p string, m metric) string {
		s := res.Ratio(p, m.Key)
		if s.N == 0 {
			return "–"
		}
		return ratio(s.Median)
	})
	b.WriteString("\n## Figures\n\n" + figuresIntro)
	res.table(&b, func(p string, m metric) string { return figure(res.Stat(p, m.Key), m) })
	res.checks(&b)
	res.notes(&b)
	fmt.Fprintf(&b, method, res.Meta["entries"])
	return b.String()
}

// table has a row for each metric and a column for each peer.
func (res Results) table(b *strings.Builder, cell func(peer string, m metric) string) {
	b.WriteString("| |")
	for _, p := range res.Peers {
		fmt.Fprintf(b, " %s |", p.Name)
	}
	b.WriteString("\n|---|" + strings.Repeat("--:|", len(res.Peers)) + "\n")
	for _, m := range metrics {
		fmt.Fprintf(b, "| %s |", m.Short)
		for _, p := range res.Peers {
			fmt.Fprintf(b, " %s |", cell(p.Name, m))
		}
		b.WriteString("\n")
	}
}

// figure is a median, and the spread where there is one.
func figure(s Stat, m metric) string {
	switch {
	case s.N == 0:
		return "–"
	case m.Format(s.Min) == m.Format(s.Max):
		return m.Format(s.Median)
	}
	return fmt.Sprintf("%s (%s–%s)", m.Format(s.Median), m.Format(s.Min), m.Format(s.Max))
}

// checks show that what was measured is what was meant.
func (res Results) checks(b *strings.Builder) {
	b.WriteString("\n## Checks\n\n" + checksIntro)
	b.WriteString("| | upstream queries per answered miss | lost, of all in the runs | upstream's share of a core | entries held of those filled in |\n|---|--:|--:|--:|--:|\n")
	for _, p := range res.Peers {
		asks, lost := res.Stat(p.Name, "asks"), res.Stat(p.Name, "lost")
		busy, held := res.Stat(p.Name, "upstream_busy"), res.Stat(p.Name, "held")
		cell := func(s Stat, v float64, format string) string {
			if s.N == 0 {
				return "–"
			}
			return fmt.Sprintf(format, v)
		}
		fmt.Fprintf(b, "| %s | %s | %s | %s | %s |\n", p.Name, cell(asks, asks.Median, "%.3f"),
			cell(lost, 100*lost.Max, "%.2f %%"), cell(busy, 100*busy.Max, "%.0f %%"), cell(held, 100*held.Median, "%.1f %%"))
	}
}

// notes name who took part, who did not, and what went wrong.
func (res Results) notes(b *strings.Builder) {
	b.WriteString("\n## Versions\n\n| forwarder | version |\n|---|---|\n")
	for _, p := range res.Peers {
		fmt.Fprintf(b, "| %s | %s |\n", p.Name, p.Version)
	}
	for _, key := range []string{"nsd", "dnsperf", "go"} {
		if v := res.Meta[key]; v != "" {
			fmt.Fprintf(b, "| (%s) | %s |\n", key, v)
		}
	}
	for _, n := range res.Skipped {
		fmt.Fprintf(b, "\nNot measured: **%s**, because %s.\n", n.Peer, strings.TrimSuffix(n.Text, "."))
	}
	for _, n := range res.Failed {
		fmt.Fprintf(b, "\n**%s** failed: %s.\n", n.Peer, strings.TrimSuffix(n.Text, "."))
	}
}

const intro = `# Sotto beside its peers

Written by [` + "`scripts/bench.sh`" + `](../scripts/bench.sh), which anybody can run on a
Debian machine; it takes about half an hour and needs root for namespaces of its own:

` + "```sh\nsudo ./scripts/bench.sh\n```" + `

What follows is one run on %s cores, Linux %s: %s rounds, %s s a measurement. Load
generator, forwarder and upstream share those cores, so only ratios within one run
carry over to another machine, and a difference of a few per cent is none.

![Sotto and its peers](benchmarks.svg)

`

const ratiosIntro = `Sotto is 1. Each run of a peer is divided by the run of Sotto just before it, and the
median of these is shown. More is better for what is counted per second, less is
better for the rest.

`

const figuresIntro = `Medians, with the lowest and the highest in brackets. – was not measured: stubby has no
cache, so it has no hits and no entries, and all of its latencies are those of misses.

`

const checksIntro = `No name is asked for twice in a forwarder's life but those of the hits, so each answered
miss should have cost the upstream at least one query (counted while the cache was
filled for the memory figures); a query counts as answered only with NOERROR. Where the
upstream used up a core it was the limit, and not the forwarder.
What was lost is mostly the first moment of the runs with 1,000 outstanding: dnsperf
sends them all at once, and a forwarder that leaves its socket's receive buffer as the
kernel makes it has room for about 280.

`

const method = `
## What is measured, and how

- **Upstream**: one nsd on loopback, TLS, one process, a wildcard zone with a TTL of an
  hour; a certificate for ` + "`dns.example`" + ` from a throwaway authority, which every
  forwarder verifies by that name. Clients ask over UDP, one A record, no EDNS.
- **Forwarders**: each is configured as its documentation advises for this job, with as
  many threads, sockets or processes as there are cores, a cache with room for the
  entries below, no log, no DNSSEC validation (Sotto does none). Every configuration is
  in [` + "`scripts/bench/peers.sh`" + `](../scripts/bench/peers.sh).
- **Order**: Sotto runs before every peer, each is started anew with an empty cache.
- **Hits**: dnsperf with eight sockets, 100 queries outstanding, 1,000 names that were
  asked for before.
- **Misses**: dnsperf likewise, 100 and then 1,000 queries outstanding, every name new.
  TLS connections are counted with ss during the latter.
- **Upstream 20 ms away**: the upstream is Sotto's own test server, which holds back
  each reply; 1,000 outstanding.
- **Latency**: 5,000 queries a second, an open loop, every fifth for a new name; from
  before the send call to the kernel's own stamp on the reply.
- **CPU**: user and system time of the forwarder's processes over the answers of a run,
  for misses with 100 outstanding and for hits. Interrupt time that the kernel books on
  the generator is nobody's.
- **Memory**: what filling in %s entries adds to the proportional set size of the
  forwarder's processes, divided by the answers that came, once. How many of them are
  still held is tried with a sample, which the upstream should see nothing of.
- **After an idle close**: each forwarder runs before an nsd that closes a connection
  after 2 s, and before one that keeps it. Ten queries, 5 s of silence, one query: the
  median of ten such, for either upstream. On a new connection this nsd's first answer
  waits for a delayed acknowledgement, about 40 ms; who connects again before it is
  asked does not see that.

Not measured: systemd-resolved, which answers on its own machine's addresses only and
wants systemd and D-Bus to run.
`
