// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os"
	"os/signal"

	"golang.org/x/sys/unix"
)

// signals are those that end or steer a process, caught from before the seal is
// made so that none ends Sotto without its cleaning up.
type signals struct {
	ch   chan os.Signal
	done chan struct{}
}

func catchSignals() *signals {
	s := &signals{ch: make(chan os.Signal, 16), done: make(chan struct{})}
	signal.Notify(s.ch, unix.SIGHUP, unix.SIGINT, unix.SIGQUIT, unix.SIGTERM, unix.SIGUSR1, unix.SIGUSR2, unix.SIGCONT, unix.SIGWINCH)
	return s
}

// passTo hands them on to p, those that came before p began included.
func (s *signals) passTo(p *os.Process) {
	go func() {
		for {
			select {
			case sig := <-s.ch:
				if !fromTerminal(sig) {
					_ = p.Signal(sig) // it may just have ended
				}
			case <-s.done:
				return
			}
		}
	}()
}

func (s *signals) stop() {
	signal.Stop(s.ch)
	close(s.done)
}

// fromTerminal reports whether the command has sig already: a terminal sends its
// signals to the whole foreground process group, in which both are.
func fromTerminal(sig os.Signal) bool {
	switch sig {
	case unix.SIGINT, unix.SIGQUIT, unix.SIGWINCH:
	default:
		return false
	}
	tty, err := os.OpenFile("/dev/tty", os.O_RDONLY, 0)
	if err != nil {
		return false
	}
	defer tty.Close()
	group, err := unix.IoctlGetInt(int(tty.Fd()), unix.TIOCGPGRP)
	return err == nil && group == unix.Getpgrp()
}
