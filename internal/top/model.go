// SPDX-License-Identifier: Apache-2.0

package top

import (
	"time"

	tea "charm.land/bubbletea/v2"

	"sotto/internal/status"
)

// noteTime is how long a note about a replaced process is shown.
const noteTime = 10 * time.Second

// Model is the state of the screen. It changes only by Update.
type Model struct {
	width, height int
	live          tables
	frozen        *tables // what is shown while paused; nil: live

	pages [tabs]page
	drill *page // the names of one workload; nil: pages[tab] is shown
	tab   int

	editing bool   // the filter is being typed
	before  string // the filter when typing started
	help    bool   // the help is shown

	err       error     // why there is no status
	traceErr  error     // why there is no trace
	errSince  time.Time // when err was first reported
	note      string
	noteUntil time.Time
}

// NewModel returns the screen that shows s, before the first sample. It starts with the names of
// a workload, if that is not "": a path or a name as in [observe.Selects].
func NewModel(s *status.Status, workload string) *Model {
	m := &Model{}
	for i := range m.pages {
		m.pages[i].tab = i
	}
	if workload != "" {
		m.drill = &page{tab: namesTab, workload: &workload, wide: true}
	}
	m.live.add(Sample{Status: s})
	return m
}

// Init implements [tea.Model].
func (m *Model) Init() tea.Cmd { return nil }

// Update implements [tea.Model]. It changes m.
func (m *Model) Update(msg tea.Msg) (tea.Model, tea.Cmd) {
	var cmd tea.Cmd
	switch msg := msg.(type) {
	case tea.WindowSizeMsg:
		m.width, m.height = msg.Width, msg.Height
	case tea.KeyPressMsg:
		cmd = m.press(msg)
	case tea.PasteMsg:
		if m.editing {
			m.page().filter += status.Printable(msg.Content)
		}
	case Sample:
		m.sample(msg)
	}
	m.page().refresh(m.shown(), m.rowsShown())
	return m, cmd
}

func (m *Model) sample(s Sample) {
	if m.err == nil {
		m.errSince = s.At
	}
	m.err, m.traceErr = s.Err, s.traceErr
	if m.live.add(s) {
		m.note = "another process answers now"
		m.noteUntil = s.At.Add(noteTime)
	}
}

// page returns the page that is shown.
func (m *Model) page() *page {
	if m.drill != nil {
		return m.drill
	}
	return &m.pages[m.tab]
}

// shown returns the figures that are shown.
func (m *Model) shown() *tables {
	if m.frozen != nil {
		return m.frozen
	}
	return &m.live
}
