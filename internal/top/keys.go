// SPDX-License-Identifier: Apache-2.0

package top

import (
	"slices"
	"sotto/internal/status"
	"unicode/utf8"

	tea "charm.land/bubbletea/v2"
)

// binding connects keys with an action.
type binding struct {
	keys  []string
	label string // of the keys, in the help
	short string // in the last line; "": not there
	help  string // on the help screen
	do    func(*Model) tea.Cmd
}

// bindings lists all keys, except those while the filter is typed.
var bindings = []binding{
	{[]string{"q", "ctrl+c"}, "q", "quit", "quit", func(*Model) tea.Cmd { return tea.Quit }},
	{[]string{"?", "h"}, "?", "help", "show this help", func(m *Model) tea.Cmd { m.help = true; return nil }},
	{[]string{"tab", "right"}, "tab", "table", "next table", func(m *Model) tea.Cmd { return m.open((m.tab + 1) % tabs) }},
	{[]string{"shift+tab", "left"}, "shift+tab", "", "previous table", func(m *Model) tea.Cmd { return m.open((m.tab + tabs - 1) % tabs) }},
	{[]string{"1"}, "1", "", "workloads", func(m *Model) tea.Cmd { return m.open(workloadsTab) }},
	{[]string{"2"}, "2", "", "names", func(m *Model) tea.Cmd { return m.open(namesTab) }},
	{[]string{"3"}, "3", "", "upstreams", func(m *Model) tea.Cmd { return m.open(upstreamsTab) }},
	{[]string{"s"}, "s", "sort", "sort by rate, failures, time or name", (*Model).sort},
	{[]string{"/"}, "/", "filter", "show only rows whose name contains a text", (*Model).filter},
	{[]string{"enter"}, "enter", "names", "names of the selected workload", (*Model).enter},
	{[]string{"esc", "backspace"}, "esc", "back", "remove the filter, or go back to the workloads", (*Model).back},
	{[]string{"p", "space"}, "p", "pause", "pause or continue", (*Model).pause},
	{[]string{"down", "j"}, "↓ j", "", "next row", func(m *Model) tea.Cmd { return m.move(1) }},
	{[]string{"up", "k"}, "↑ k", "", "previous row", func(m *Model) tea.Cmd { return m.move(-1) }},
	{[]string{"pgdown", "ctrl+f"}, "page down", "", "next page", func(m *Model) tea.Cmd { return m.move(m.rowsShown()) }},
	{[]string{"pgup", "ctrl+b"}, "page up", "", "previous page", func(m *Model) tea.Cmd { return m.move(-m.rowsShown()) }},
	{[]string{"home", "g"}, "home g", "", "first row", func(m *Model) tea.Cmd { return m.move(-len(m.page().rows)) }},
	{[]string{"end", "G"}, "end G", "", "last row", func(m *Model) tea.Cmd { return m.move(len(m.page().rows)) }},
	{[]string{"ctrl+z"}, "ctrl-z", "", "suspend", func(*Model) tea.Cmd { return tea.Suspend }},
}

func (m *Model) press(msg tea.KeyPressMsg) tea.Cmd {
	name := msg.String()
	switch {
	case m.editing:
		return m.edit(msg)
	case m.help && name != "q" && name != "ctrl+c" && name != "ctrl+z":
		m.help = false
		return nil
	}
	for _, b := range bindings {
		if slices.Contains(b.keys, name) {
			return b.do(m)
		}
	}
	return nil
}

// edit handles a key while the filter is typed.
func (m *Model) edit(msg tea.KeyPressMsg) tea.Cmd {
	p := m.page()
	switch msg.String() {
	case "ctrl+c":
		return tea.Quit
	case "enter":
		m.editing = false
	case "esc":
		m.editing, p.filter = false, m.before
	case "backspace":
		_, n := utf8.DecodeLastRuneInString(p.filter)
		p.filter = p.filter[:len(p.filter)-n]
	case "ctrl+u":
		p.filter = ""
	default:
		p.filter += status.Printable(msg.Text)
	}
	return nil
}

func (m *Model) open(tab int) tea.Cmd {
	m.tab, m.drill = tab, nil
	return nil
}

func (m *Model) sort() tea.Cmd {
	p := m.page()
	p.order = (p.order + 1) % orders
	p.top = 0
	return nil
}

func (m *Model) filter() tea.Cmd {
	m.editing, m.before = true, m.page().filter
	return nil
}

func (m *Model) enter() tea.Cmd {
	if r := m.page().row(); m.page().tab == workloadsTab && r != nil {
		m.drill = &page{tab: namesTab, workload: &r.name}
	}
	return nil
}

func (m *Model) back() tea.Cmd {
	if p := m.page(); p.filter != "" {
		p.filter = ""
	} else {
		m.drill = nil
	}
	return nil
}

func (m *Model) pause() tea.Cmd {
	if m.frozen != nil {
		m.frozen = nil
	} else {
		m.frozen = m.live.clone()
	}
	return nil
}

func (m *Model) move(n int) tea.Cmd {
	m.page().move(n, m.rowsShown())
	return nil
}
