// SPDX-License-Identifier: Apache-2.0

package config

import (
	"fmt"
	"strings"
)

// UsageError is an error in the command line, not in the configuration file.
type UsageError struct{ Err error }

func (e UsageError) Error() string { return e.Err.Error() }
func (e UsageError) Unwrap() error { return e.Err }

// Usagef formats a [UsageError].
func Usagef(format string, args ...any) error {
	return UsageError{fmt.Errorf(format, args...)}
}

// At adds to err the name of the setting at path and, if the file has that setting, its
// position there.
func (s *Settings) At(path string, err error) error {
	name := path[strings.LastIndexByte(path, '.')+1:]
	name, _, _ = strings.Cut(name, "[")
	if line, column, ok := s.positions.find(path); ok {
		return fmt.Errorf("%s:%d:%d: %s: %w", s.file, line, column, name, err)
	}
	return fmt.Errorf("%s: %w", name, err)
}

// invalid returns the error of the setting at path: a [UsageError] if the value comes from
// a flag.
func (s *Settings) invalid(path string, err error) error {
	if _, _, ok := s.positions.find(path); ok {
		return s.At(path, err)
	}
	return UsageError{s.At(path, err)}
}

func (s *Settings) invalidf(path, format string, args ...any) error {
	return s.invalid(path, fmt.Errorf(format, args...))
}
