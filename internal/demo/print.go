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
	width  = 98 // of a line; a terminal of 100 columns shows it without a wrap
	column = 47 // of each capture; " | " goes between
	glance = 40 // bytes of a packet that are shown
)

// printer writes the report. The first error of writing stays in err.
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

func (p *printer) intro(asked []netip.Addr) {
	servers := make([]string, len(asked))
	for i, a := range asked {
		servers[i] = a.String()
	}
	p.line(`The same questions are asked twice, over UDP and TCP, on a network made for this demo. It has no
way out: nothing here reaches your network or the internet.

  host ------------------------ wire ------------------------ LAN
  the program that asks         both captures are             plain nameservers on port 53:
  (knows nothing of sotto)      made here                     %s
                                                              DNS over TLS: %s:853`,
		strings.Join(servers, ", "), upstreamAddr)
}

func (p *printer) headline(text string) { p.line("\n%s\n", text) }

// half prints a command and what it said.
func (p *printer) half(h half) {
	words := slices.Clone(h.command)
	for i, w := range words {
		if w == p.self {
			words[i] = "sotto"
		}
	}
	for i, l := range wrap(words, width-6) {
		p.line("%s%s", [2]string{"  $ ", "      "}[min(i, 1)], l)
	}
	for l := range strings.Lines(h.output) {
		l = strings.TrimSpace(strings.ReplaceAll(l, "\t", " "))
		// Of dig's statistics only the nameserver matters here.
		if l == "" || strings.HasPrefix(l, ";; ") && !strings.HasPrefix(l, ";; SERVER") && len(h.answers.servers) > 0 {
			continue
		}
		p.line("    %s", cut(l, width-4))
	}
}

// wrap joins words to lines of at most n columns, all but the last ending in a
// backslash.
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
	row := func(l, r string) { p.line("%-*s | %s", column, cut(l, column), cut(r, column)) }
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

// emptyText tells of the packets that are left out.
func emptyText(n int) string { return fmt.Sprintf("and %d TCP packets that carry no data", n) }

// describe writes each packet in two lines, what it is and how it begins, and
// counts those that carry nothing. What has no port (neighbour discovery) is
// left out.
func describe(packets []capture.Packet) (lines []string, empty int) {
	for _, p := range packets {
		switch {
		case p.Protocol != unix.IPPROTO_UDP && p.Protocol != unix.IPPROTO_TCP:
		case len(p.Payload) == 0:
			empty++
		default:
			lines = append(lines, what(p), "     "+readable(p.Payload))
		}
	}
	return lines, empty
}

// what says which way a packet went, to or from whom, and what it is.
func what(p capture.Packet) string {
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
		kind = "TLS, sealed"
	case p.Record != 0:
		kind = "TLS"
	default:
		kind = fmt.Sprintf("%d bytes", len(p.Payload))
	}
	return fmt.Sprintf("%s %s %-21s %s", arrow, proto, server, kind)
}

func isPlain(a netip.AddrPort) bool  { return a.Port() == 53 }
func isServer(a netip.AddrPort) bool { return a.Port() == 53 || a.Port() == 853 }

// readable shows the beginning of a payload as an onlooker reads it, every
// byte that is no printable ASCII as a dot.
func readable(b []byte) string {
	out := make([]byte, 0, glance)
	for _, c := range b[:min(len(b), glance)] {
		if c < ' ' || c > '~' {
			c = '.'
		}
		out = append(out, c)
	}
	return string(out)
}

// cut shortens text to n columns.
func cut(s string, n int) string {
	if len(s) <= n {
		return s
	}
	return s[:n-3] + "..."
}

// verdict is the last word.
func (p *printer) verdict(before, after half) {
	p.line("\nWhat stays visible: that %s (%s) was asked over TLS, when, and how much.", upstreamAddr, upstreamName)
	p.line("\nSEALED. Plain DNS packets: %d before, none after. Same answers, from the same nameservers.",
		len(capture.Plain(before.packets, secret)))
}
