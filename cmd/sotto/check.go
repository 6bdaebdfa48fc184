// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"

	"sotto/internal/config"
	"sotto/internal/daemon"
)

// check validates the configuration and the flags, and prints a summary. validate, if not
// nil, holds further checks of a command.
func (e *env) check(load daemon.Loader, validate func(config.Settings, config.Plan) error) error {
	s, p, err := load()
	if err == nil && validate != nil {
		err = validate(s, p)
	}
	if err != nil {
		return err
	}
	p.Warn(e.logger(p.Level))
	file := s.File()
	if file == "" {
		file = "defaults and flags, no file"
	}
	_, err = fmt.Fprintf(e.stdout, "valid: %s: groups %s; %d rules\n", file, p.GroupNames(), len(p.Rules.Uses))
	return err
}
