// SPDX-License-Identifier: Apache-2.0

package config

import (
	"time"

	"sotto/intercept"
)

// Values of on-exit: the state of the seal after `run` has exited.
const (
	ExitStrict = "strict" // a clean stop opens the seal, a crash keeps it closed
	ExitOpen   = "open"   // a clean stop and a crash open it
	ExitClosed = "closed" // a clean stop and a crash keep it closed
)

// Values of when-replaced: what a process does after another one has taken over.
const (
	ReplacedExit = "exit"
	ReplacedWait = "wait" // until it is stopped
)

// OpenAfter is the time after the last heartbeat until the seal opens, with [ExitOpen]: six
// heartbeats. A client's first retry takes about as long.
const OpenAfter = 3 * time.Second

// guardModes are the values of guard.
var guardModes = map[string]intercept.GuardMode{
	"drop": intercept.GuardDrop, "count": intercept.GuardCount, "off": intercept.GuardOff,
}

// planSeal reads the settings of the seal other than addresses.
func (s *Settings) planSeal(p *Plan) error {
	var ok bool
	if p.Guard, ok = guardModes[s.Guard]; !ok {
		return s.invalidf("guard", "unknown value %q: want drop, count or off", s.Guard)
	}
	if err := s.planLocal(p); err != nil {
		return err
	}
	switch p.OnExit = s.OnExit; p.OnExit {
	case ExitStrict, ExitOpen, ExitClosed:
	default:
		return s.invalidf("on-exit", "unknown value %q: want %s, %s or %s", s.OnExit, ExitStrict, ExitOpen, ExitClosed)
	}
	switch p.WhenReplaced = s.WhenReplaced; p.WhenReplaced {
	case ReplacedExit, ReplacedWait:
		return nil
	}
	return s.invalidf("when-replaced", "unknown value %q: want %s or %s", s.WhenReplaced, ReplacedExit, ReplacedWait)
}
