// SPDX-License-Identifier: Apache-2.0

// Package top is the screen of `sotto top`: tables of workloads, names and upstreams with their
// rates, failures and times. [Run] owns the terminal until the user quits, and restores it. All
// figures come from a [Source], which reads a running Sotto: those of workloads and upstreams are
// differences of the counters in its status, those of names are counted here from its trace.
//
// [Model] is the screen without the terminal: it changes only by messages, and View depends only
// on it.
//
// The package uses bubbletea without lipgloss and bubbles. Both act on import, so that every
// command of Sotto would do so before main: lipgloss runs the program tmux (in a tmux session), and
// the text field of bubbles searches PATH for clipboard programs.
package top
