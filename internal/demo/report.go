// SPDX-License-Identifier: Apache-2.0

package demo

import (
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"sotto/internal/capture"
)

const (
	width   = 98 // of a line, for terminals of 100 columns
	column  = 47 // width of each capture; " | " separates them
	preview = 40 // payload bytes shown per packet
)

// printer writes the report. It stores the first write error in err.
type printer struct {
	w    io.Writer
	self string // shown as "sotto"
	err  error
}

func (p *printer) line(format string, args ...any) {
	if p.err == nil {
		_, p.err = fmt.Fprintf(p.w, format+"\n", args...)
	}
}

func (p *printer) intro(plainServers []netip.Addr) {
	servers := make([]string, len(plainServers))
	for i, a := range plainServers {
		servers[i] = a.String()
	}
	p.line(`This demo sends the same DNS queries twice, unsealed and sealed, over UDP and TCP. It runs in an
isolated network: no packet reaches your network or the internet.

  host ------------------------ link ------------------------ LAN
  runs the DNS client,          both captures are             plain nameservers on port 53:
  which is unaware of Sotto     taken here                    %s
                                                              DNS over TLS: %s:853`,
		strings.Join(servers, ", "), upstreamAddr)
}

func (p *printer) heading(text string) { p.line("\n%s\n", text) }

// phase prints a command and its output.
func (p *printer) phase(ph phase) {
	words := slices.Clone(ph.command)
	for i, w := range words {
		if w == p.self {
			words[i] = "sotto"
		}
	}
	for i, l := range wrap(words, width-6) {
		p.line("%s%s", [2]string{"  $ ", "      "}[min(i, 1)], l)
	}
	for l := range strings.Lines(ph.output) {
		l = strings.TrimSpace(strings.ReplaceAll(l, "\t", " "))
		// Of dig's statistics, print only the nameserver.
		if l == "" || strings.HasPrefix(l, ";; ") && !strings.HasPrefix(l, ";; SERVER") && len(ph.answers.servers) > 0 {
			continue
		}
		p.line("    %s", truncate(l, width-4))
	}
}

// wrap joins words into lines of at most n columns. All lines except the last end with
// a backslash.
func wrap(words []string, n int) []string {
	lines := []string{words[0]}
	for _, w := range words[1:] {
		last := &lines[len(lines)-1]
		if len(*last)+1+len(w)+2 > n {
			*last += ` \`
			lines = append(lines, w)
		} else {
			*last += " " + w
		}
	}
	return lines
}

// sideBySide prints both captures.
func (p *printer) sideBySide(before, after []capture.Packet) {
	left, leftEmpty := describe(before)
	right, rightEmpty := describe(after)
	row := func(l, r string) { p.line("%-*s | %s", column, truncate(l, column), truncate(r, column)) }
	row("UNSEALED", "SEALED")
	row(strings.Repeat("-", column), strings.Repeat("-", column))
	for i := range max(len(left), len(right)) {
		var l, r string
		if i < len(left) {
			l = left[i]
		}
		if i < len(right) {
			r = right[i]
		}
		row(l, r)
	}
	row(strings.Repeat("-", column), strings.Repeat("-", column))
	row(emptyText(leftEmpty), emptyText(rightEmpty))
}

// emptyText describes the packets that are not shown.
func emptyText(n int) string { return fmt.Sprintf("plus %d TCP packets without data", n) }

// describe returns two lines for each packet, a summary and the start of its payload,
// and counts packets without payload. It skips packets without ports (neighbour
// discovery).
func describe(packets []capture.Packet) (lines []string, empty int) {
	for _, p := range packets {
		switch {
		case p.Protocol != unix.IPPROTO_UDP && p.Protocol != unix.IPPROTO_TCP:
		case len(p.Payload) == 0:
			empty++
		default:
			lines = append(lines, summary(p), "     "+printable(p.Payload))
		}
	}
	return lines, empty
}

// summary returns the direction, protocol, server and kind of a packet.
func summary(p capture.Packet) string {
	arrow, server := "->", p.Dst
	if isServer(p.Src) {
		arrow, server = "<-", p.Src
	}
	proto := "UDP"
	if p.Protocol == unix.IPPROTO_TCP {
		proto = "TCP"
	}
	kind := ""
	switch {
	case p.Question != "":
		_, kind, _ = strings.Cut(p.Question, " ")
		kind = "plain DNS, " + kind
	case isPlain(server):
		kind = "plain DNS"
	case p.Record == 22:
		kind = "TLS handshake"
	case p.Record == 23:
		kind = "TLS data"
	case p.Record != 0:
		kind = "TLS"
	default:
		kind = fmt.Sprintf("%d bytes", len(p.Payload))
	}
	return fmt.Sprintf("%s %s %-21s %s", arrow, proto, server, kind)
}

func isPlain(a netip.AddrPort) bool  { return a.Port() == 53 }
func isServer(a netip.AddrPort) bool { return a.Port() == 53 || a.Port() == 853 }

// printable returns the start of a payload, with a dot for every byte that is not
// printable ASCII.
func printable(b []byte) string {
	out := make([]byte, 0, preview)
	for _, c := range b[:min(len(b), preview)] {
		if c < ' ' || c > '~' {
			c = '.'
		}
		out = append(out, c)
	}
	return string(out)
}

// truncate shortens text to n columns.
func truncate(s string, n int) string {
	if len(s) <= n {
		return s
	}
	return s[:n-3] + "..."
}

// result prints the conclusion of a successful demo.
func (p *printer) result(before phase) {
	p.line("\nStill visible when sealed: TLS connections to %s (%s), their timing and size.", upstreamAddr, upstreamName)
	p.line("\nSEALED. Plain DNS packets: %d unsealed, 0 sealed. The answers and the nameservers are the same.",
		len(capture.Plain(before.packets, queriedName)))
}
