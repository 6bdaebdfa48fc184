// SPDX-License-Identifier: Apache-2.0

package top

import (
	"context"
	"os"

	tea "charm.land/bubbletea/v2"
	"github.com/charmbracelet/colorprofile"
)

// Terminal is where the screen is shown.
type Terminal struct {
	In, Out *os.File
	Colour  bool
}

// Run shows the screen until the user quits or ctx ends, and restores the terminal. It starts with
// the names of a workload, if that is not "", see [NewModel]. It returns an
// error if the first status cannot be read, or the terminal not used. Later errors of the source
// are shown on the screen. It handles no signals except those of a terminal that was resized or
// continued.
func Run(ctx context.Context, s Source, t Terminal, workload string) error {
	first, err := s.status(ctx)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	// Without a profile, bubbletea would run the program tmux to find one. Its signal handler would
	// exit on SIGINT without waiting for the reader of the terminal.
	profile := colorprofile.ASCII
	if t.Colour {
		profile = colorprofile.ANSI
	}
	p := tea.NewProgram(NewModel(first, workload), tea.WithInput(t.In), tea.WithOutput(t.Out),
		tea.WithColorProfile(profile), tea.WithoutSignalHandler())
	go func() {
		<-ctx.Done()
		p.Quit()
	}()
	collected := make(chan struct{})
	go func() {
		defer close(collected)
		s.collect(ctx, func(sample Sample) { p.Send(sample) })
	}()
	_, err = p.Run()
	cancel()
	<-collected
	return err
}
