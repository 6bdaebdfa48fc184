// SPDX-License-Identifier: Apache-2.0

package main

import "fmt"

// check says what a start with this configuration and these flags would trip over
// before it does anything. more is what a verb looks at besides.
func (e *env) check(load loader, more func(settings, plan) error) error {
	s, p, err := load()
	if err == nil && more != nil {
		err = more(s, p)
	}
	if err != nil {
		return err
	}
	p.warn(e.logger(p.level))
	from := s.file
	if from == "" {
		from = "no file; flags and defaults"
	}
	_, err = fmt.Fprintf(e.stdout, "in order: %s: groups %s; %d rules\n", from, groupNames(p.groups), len(p.rules.uses))
	return err
}
