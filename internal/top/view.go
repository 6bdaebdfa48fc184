// SPDX-License-Identifier: Apache-2.0

package top

import (
	"fmt"
	"sotto/internal/status"
	"strings"
	"time"

	tea "charm.land/bubbletea/v2"
	"github.com/charmbracelet/x/ansi"
)

// The styles use the terminal's own 16 colours.
var (
	bold     = ansi.NewStyle().Bold()
	faint    = ansi.NewStyle().Faint()
	title    = ansi.NewStyle().Bold().Underline(true)
	selected = ansi.NewStyle().Reverse(true)
	red      = ansi.NewStyle().ForegroundColor(ansi.Red)
	green    = ansi.NewStyle().ForegroundColor(ansi.Green)
	yellow   = ansi.NewStyle().ForegroundColor(ansi.Yellow)
	cyan     = ansi.NewStyle().ForegroundColor(ansi.Cyan)
)

const (
	// headLines and footLines are above and below the rows.
	headLines = 4
	footLines = 2

	// minWidth and minHeight are the smallest screen that is used.
	minWidth, minHeight = 40, headLines + footLines + 2
)

// rowsShown is the number of rows on the screen.
func (m *Model) rowsShown() int { return max(1, m.height-headLines-footLines) }

// View implements [tea.Model].
func (m *Model) View() tea.View {
	v := tea.NewView(strings.Join(m.lines(), "\n"))
	v.AltScreen = true
	v.WindowTitle = "sotto top"
	return v
}

// lines returns the lines of the screen, each as wide as the screen at most.
func (m *Model) lines() []string {
	switch {
	case m.width == 0:
		return nil // the size is not yet known
	case m.width < minWidth || m.height < minHeight:
		return []string{ansi.Truncate(fmt.Sprintf("too small: want %d×%d", minWidth, minHeight), m.width, "…")}
	case m.help:
		return m.helpLines()
	}
	p := m.page()
	l := layoutFor(p.tab, m.width)
	out := []string{m.summary(), m.totals(), m.tabLine(), p.titles(l)}
	for i := range m.rowsShown() {
		line := ""
		if n := p.top + i; n < len(p.rows) {
			line = p.line(l, p.rows[n], n == p.cursor)
		} else if n == 0 {
			line = faint.Styled(fit(m.empty(), m.width))
		}
		out = append(out, line)
	}
	return append(out, m.state(), m.keys())
}

// empty says why there is no row.
func (m *Model) empty() string {
	switch p := m.page(); {
	case p.filter != "":
		return "no name contains the filter"
	case p.tab == namesTab:
		return "no queries since the start of top"
	case p.tab == workloadsTab:
		return "no queries since the start of Sotto"
	}
	return "no upstreams"
}

// summary is the first line: the process, and the plot of all queries.
func (m *Model) summary() string {
	s := m.shown().status
	text := fmt.Sprintf("Sotto %s, %s, PID %d", status.Printable(s.Version), s.State(), s.PID)
	if at := m.shown().at; !at.IsZero() {
		text += ", up " + upFor(at.Sub(s.Started))
	}
	return bold.Styled(fit(text, m.width))
}

// totals is the second line: the averages of all queries.
func (m *Model) totals() string {
	t := m.shown()
	sum := t.all.rows[key{}].scaled(t.all.weight)
	failed := rate(sum.failed) + " failed/s"
	if style := failedStyle(sum); style != nil {
		failed = style.Styled(failed)
	}
	text := fmt.Sprintf("%s queries/s, %s, %s from the cache, time %s ", rate(sum.rate), failed, percent(sum.share(sum.cached)), span(sum.time()))
	if n := t.status.Load.Waiting; n > 0 {
		text += fmt.Sprintf("(%d waiting) ", n)
	}
	free := max(0, min(history, m.width-ansi.StringWidth(text)))
	return fit(text, m.width-free) + cyan.Styled(plot(sum.plot[:], free))
}

// tabLine is the third line: the tables, and the filter.
func (m *Model) tabLine() string {
	t := m.shown()
	names := [tabs]string{
		fmt.Sprintf(" 1 Workloads %d ", len(t.workloads.rows)), fmt.Sprintf(" 2 Names %d ", t.distinct),
		fmt.Sprintf(" 3 Upstreams %d ", len(t.upstreams.rows)),
	}
	line := ""
	for i, name := range names {
		if i == m.tab && m.drill == nil {
			name = selected.Styled(name)
		}
		line += name
	}
	p := m.page()
	if m.drill != nil {
		line += selected.Styled(" Names of " + p.parent(m.width-ansi.StringWidth(line)-len(" Names of  ")) + " ")
	}
	switch {
	case m.editing:
		line += " filter: " + p.filter + selected.Styled(" ")
	case p.filter != "":
		line += yellow.Styled(" filter: " + p.filter)
	}
	return ansi.Truncate(line, m.width, "…")
}

// parent is the workload of a page of names, cut to the width.
func (p *page) parent(width int) string {
	name := p.name(&row{key: key{name: *p.workload}, called: p.title})
	return fitEnd(name, min(width, ansi.StringWidth(name)))
}

// titles is the line above the rows. The column by which they are sorted is marked.
func (p *page) titles(l layout) string {
	mark := func(title string, order int) string {
		if order == p.order {
			return title + "▾"
		}
		return title
	}
	line := fit(mark(nameTitles[p.tab], byName), l.name)
	for _, c := range l.columns {
		line += strings.Repeat(" ", gap) + right(mark(c.title, c.order), c.width)
	}
	if l.plot > 0 {
		line += strings.Repeat(" ", gap) + right(fmt.Sprintf("last %d s", l.plot), l.plot)
	}
	return title.Styled(line)
}

func (p *page) line(l layout, r *row, current bool) string {
	line := p.label(r, l.name)
	for _, c := range l.columns {
		text := right(c.text(r), c.width)
		if c.style != nil && !current {
			if style := c.style(r); style != nil {
				text = style.Styled(text)
			}
		}
		line += strings.Repeat(" ", gap) + text
	}
	if l.plot > 0 {
		text := plot(r.plot[:], l.plot)
		if !current {
			text = cyan.Styled(text)
		}
		line += strings.Repeat(" ", gap) + text
	}
	if current {
		return selected.Styled(line)
	}
	return line
}

// state is the line below the rows: what is unusual, else which rows are shown.
func (m *Model) state() string {
	t := m.shown()
	switch p := m.page(); {
	case m.err != nil:
		return red.Styled(fit(fmt.Sprintf("not connected for %s, trying again: %s", upFor(m.live.at.Sub(m.errSince)), status.Printable(m.err.Error())), m.width))
	case m.frozen != nil:
		return yellow.Styled(fit("paused, p continues", m.width))
	case m.live.at.Before(m.noteUntil):
		return yellow.Styled(fit(m.note, m.width))
	case p.tab == namesTab && m.traceErr != nil:
		return red.Styled(fit("no trace, names are not counted: "+status.Printable(m.traceErr.Error()), m.width))
	case p.tab == namesTab && t.lostShare() >= 0.005:
		return yellow.Styled(fit(fmt.Sprintf("%s of the queries are not counted here: more than this program can read", percent(t.lostShare())), m.width))
	case p.tab == upstreamsTab && p.row() != nil && p.row().server.LastError != "":
		return red.Styled(fit("last error: "+status.Printable(p.row().server.LastError), m.width))
	case p.tab == workloadsTab && p.selected != nil && p.row() != nil && p.row().called != "":
		return faint.Styled(fitEnd("cgroup "+status.Printable(p.row().name), m.width))
	case len(p.rows) > m.rowsShown():
		return faint.Styled(fit(fmt.Sprintf("rows %d to %d of %d", p.top+1, min(p.top+m.rowsShown(), len(p.rows)), len(p.rows)), m.width))
	}
	return ""
}

// keys is the last line.
func (m *Model) keys() string {
	if m.editing {
		return faint.Styled(fit("enter keep the filter  esc discard it  ctrl-u clear it", m.width))
	}
	var list []string
	for _, b := range bindings {
		if b.short != "" && (b.label != "enter" || m.page().tab == workloadsTab) {
			list = append(list, b.label+" "+b.short)
		}
	}
	return faint.Styled(fit(strings.Join(list, "  "), m.width))
}

// upFor rounds a duration for people.
func upFor(d time.Duration) string {
	switch {
	case d >= 24*time.Hour:
		return fmt.Sprintf("%dd%dh", d/(24*time.Hour), d%(24*time.Hour)/time.Hour)
	case d >= time.Hour:
		return fmt.Sprintf("%dh%dm", d/time.Hour, d%time.Hour/time.Minute)
	case d >= time.Minute:
		return fmt.Sprintf("%dm%ds", d/time.Minute, d%time.Minute/time.Second)
	}
	return fmt.Sprintf("%ds", max(d, 0)/time.Second)
}
