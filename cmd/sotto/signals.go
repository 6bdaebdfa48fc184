// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os"
	"os/signal"

	"golang.org/x/sys/unix"
)

// outlivePipe makes a write to a closed pipe on stdout or stderr an error, by which only that line
// is lost. Without it Go ends the process (SIGPIPE), without cleaning up: the reader of a log must
// not end the seal. Programs that this process starts have the default action, unlike with
// signal.Ignore.
func outlivePipe() { signal.Notify(make(chan os.Signal, 1), unix.SIGPIPE) }

// signals holds the signals that `exec` forwards to its command. They are caught from before
// the seal is created, so that none terminates Sotto before it has cleaned up.
type signals struct {
	ch   chan os.Signal
	done chan struct{}
}

func catchSignals() *signals {
	outlivePipe()
	s := &signals{ch: make(chan os.Signal, 16), done: make(chan struct{})}
	signal.Notify(s.ch, unix.SIGQUIT, unix.SIGTERM, unix.SIGUSR1, unix.SIGUSR2, unix.SIGCONT, unix.SIGWINCH)
	// Go keeps these two ignored if the caller ignores them, as nohup does, and so does the command
	// then. A signal that is caught has its default action in the command.
	for _, sig := range []os.Signal{unix.SIGHUP, unix.SIGINT} {
		if !signal.Ignored(sig) {
			signal.Notify(s.ch, sig)
		}
	}
	return s
}

// early returns a signal that asked to exit before the command started, or 0. A terminal sends
// such a signal to Sotto alone, so forward would take it for one that the command has received.
func (s *signals) early() unix.Signal {
	for range len(s.ch) {
		switch sig := <-s.ch; sig {
		case unix.SIGHUP, unix.SIGINT, unix.SIGQUIT, unix.SIGTERM:
			return sig.(unix.Signal)
		default: // for forward
			select {
			case s.ch <- sig:
			default: // full, as for any signal
			}
		}
	}
	return 0
}

// forward forwards the signals to p, including those that were caught before p started.
func (s *signals) forward(p *os.Process) {
	go func() {
		for {
			select {
			case sig := <-s.ch:
				if !fromTerminal(sig) {
					_ = p.Signal(sig) // it may have exited
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

// fromTerminal reports whether the command has already received sig: a terminal sends its
// signals to the whole foreground process group, which includes both processes.
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
