// SPDX-License-Identifier: Apache-2.0

package main

import (
	"time"

	"sotto/intercept"
)

// What becomes of the seal when `run` ends.
const (
	exitStrict = "strict" // a stop that was asked for opens it, anything else keeps it closed
	exitOpen   = "open"   // it opens, after a crash too
	exitClosed = "closed" // it stays closed, after a stop too
)

// What a process does that another one has replaced.
const (
	replacedExit = "exit"
	replacedWait = "wait" // until it is stopped
)

// openAfter is how long a Sotto that was told to open on exit may be silent: six signs
// of life. A client waits about as long for its first retry.
const openAfter = 3 * time.Second

// guardModes are the words for them.
var guardModes = map[string]intercept.GuardMode{
	"drop": intercept.GuardDrop, "count": intercept.GuardCount, "off": intercept.GuardOff,
}

// planSeal reads what the kernel half is told besides addresses.
func (s *settings) planSeal(p *plan) error {
	var ok bool
	if p.guard, ok = guardModes[s.Guard]; !ok {
		return s.wrongf("guard", "there is no %q: want drop, count or off", s.Guard)
	}
	switch p.onExit = s.OnExit; p.onExit {
	case exitStrict, exitOpen, exitClosed:
	default:
		return s.wrongf("on-exit", "there is no %q: want %s, %s or %s", s.OnExit, exitStrict, exitOpen, exitClosed)
	}
	switch p.whenReplaced = s.WhenReplaced; p.whenReplaced {
	case replacedExit, replacedWait:
		return nil
	}
	return s.wrongf("when-replaced", "there is no %q: want %s or %s", s.WhenReplaced, replacedExit, replacedWait)
}
