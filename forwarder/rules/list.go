// SPDX-License-Identifier: Apache-2.0

package rules

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strings"

	"sotto/forwarder/wire"
)

// maxLine limits the length of a line. A line of a hosts file may have many names.
const maxLine = 64 << 10

// localNames are names of the machine itself, which a hosts file usually starts with.
var localNames = []string{
	"localhost", "localhost.localdomain", "local", "broadcasthost", "0.0.0.0",
	"ip6-localhost", "ip6-loopback", "ip6-localnet", "ip6-mcastprefix",
	"ip6-allnodes", "ip6-allrouters", "ip6-allhosts",
}

var (
	errListAddress = errors.New("it is an address: a list has one name per line")
	errListWords   = errors.New("it has more than one word: a list has one name per line")
	errListHosts   = errors.New("it assigns an address, which a list cannot: write the names only, or 0.0.0.0 to block them, or answer with the file (hosts-file)")
	errListFilter  = errors.New("it is a filter or a URL, not a name: of filters, a list can have only ||NAME^")
	errListAllow   = errors.New("it is an exception, which a list cannot contain: put the name into a rule above this one")
)

// ReadNames reads a list of names in the form of [Rule].Names, one per line. Errors have the
// line number. These lines have a meaning of their own:
//
//   - A comment starts with # or !, or is a header in square brackets. Empty lines are skipped.
//   - "0.0.0.0 NAME…" (also 127.0.0.1, :: and ::1), as in a hosts file, means exactly those
//     names and not those below. They are returned as "=NAME", without names of the machine
//     itself, such as localhost.
//   - "||NAME^", as in lists for ad blockers, also with the option $important, means the name
//     and all below it.
func ReadNames(r io.Reader) (names []string, err error) {
	err = ScanNames(r, func(name string) error {
		names = append(names, name)
		return nil
	}, func(err error) error { return err })
	if err != nil {
		return nil, err
	}
	return names, nil
}

// ScanNames is like [ReadNames] for a list that is too long for memory, or has other lines as
// well: it calls found for each name, and invalid with the error of each line that has none.
// It stops when one of them returns an error, and returns that.
func ScanNames(r io.Reader, found func(name string) error, invalid func(error) error) error {
	lines := bufio.NewScanner(r)
	lines.Buffer(make([]byte, 0, 4096), maxLine)
	number := 0
	var names []string
	for lines.Scan() {
		line := lines.Bytes()
		if number++; number == 1 {
			line = bytes.TrimPrefix(line, []byte("\ufeff"))
		}
		var err error
		if names, err = appendLine(names[:0], line); err != nil {
			if err = invalid(fmt.Errorf("line %d: %w", number, err)); err != nil {
				return err
			}
		}
		for _, name := range names {
			if err := found(name); err != nil {
				return err
			}
		}
	}
	switch err := lines.Err(); {
	case errors.Is(err, bufio.ErrTooLong):
		return fmt.Errorf("line %d: it is longer than %d bytes: check that the file is a list of names", number+1, maxLine)
	case err != nil:
		return fmt.Errorf("read the list of names: %w", err)
	}
	return nil
}

// FindName returns the first name in a list that matches the wire name of a query, as
// [ReadNames] returns it, or "". Lines that are not valid are skipped.
func FindName(r io.Reader, query []byte) (string, error) {
	var q name
	if !q.read(query) {
		return "", nil
	}
	match := ""
	errFound := errors.New("found")
	err := ScanNames(r, func(text string) error {
		if !q.isIn(text) {
			return nil
		}
		match = text
		return errFound
	}, func(error) error { return nil })
	if errors.Is(err, errFound) {
		err = nil
	}
	return match, err
}

// Includes reports whether a name in the form of [Rule].Names matches the wire name of a query.
func Includes(text string, query []byte) bool {
	var q name
	return q.read(query) && q.isIn(text)
}

// isIn reports whether the name of a rule matches n.
func (n *name) isIn(text string) bool {
	var room [wire.MaxName]byte
	b, exact, err := appendName(room[:0], text)
	var rule name
	if err != nil || !rule.read(b) || rule.count > n.count || exact && rule.count != n.count {
		return false
	}
	return bytes.Equal(n.suffix(rule.count), b)
}

// appendLine appends the names in a line of a list.
func appendLine(names []string, b []byte) ([]string, error) {
	line, err := removeComment(b)
	if err != nil || line == "" {
		return names, err
	}
	if text, ok := strings.CutPrefix(line, "||"); ok {
		text = strings.TrimSuffix(text, "$important")
		if text, ok = strings.CutSuffix(text, "^"); !ok || strings.ContainsAny(text, "*/") {
			return names, fmt.Errorf("%q: %w", cut(line), errListFilter)
		}
		return appendChecked(names, text)
	}
	words := strings.Fields(line)
	addr, err := parseAddr(words[0])
	switch {
	case err == nil && len(words) == 1:
		return names, fmt.Errorf("%q: %w", line, errListAddress)
	case err != nil && len(words) > 1:
		return names, fmt.Errorf("%q: %w", cut(line), errListWords)
	case err != nil:
		return appendChecked(names, line)
	}
	blocks := addr.IsUnspecified() || addr.IsLoopback()
	for _, word := range words[1:] {
		if slices.Contains(localNames, word) {
			continue
		}
		if !blocks {
			return names, fmt.Errorf("%q: %w", cut(line), errListHosts)
		}
		if names, err = appendChecked(names, "="+word); err != nil {
			return names, err
		}
	}
	return names, nil
}

var errNotAddress = errors.New("it is not an address")

// parseAddr is [netip.ParseAddr], and faster for words that are certainly names.
func parseAddr(s string) (netip.Addr, error) {
	if (s[0] < '0' || s[0] > '9') && strings.IndexByte(s, ':') < 0 {
		return netip.Addr{}, errNotAddress
	}
	return netip.ParseAddr(s)
}

// removeComment returns a line without its comment and the blanks around it.
func removeComment(b []byte) (string, error) {
	b = bytes.TrimSpace(b)
	if len(b) > 0 && (b[0] == '!' || b[0] == '[' && b[len(b)-1] == ']') {
		return "", nil
	}
	// The name before "##" and the like is where an ad blocker hides a part of a page.
	if i := bytes.IndexByte(b, '#'); i > 0 && i+1 < len(b) && b[i-1] > ' ' && bytes.IndexByte([]byte("#@?$%"), b[i+1]) >= 0 {
		return "", fmt.Errorf("%q: %w", cut(string(b)), errListFilter)
	}
	b, _, _ = bytes.Cut(b, []byte("#"))
	return string(bytes.TrimSpace(b)), nil
}

// appendChecked appends a name if [Compile] accepts it.
func appendChecked(names []string, s string) ([]string, error) {
	switch {
	case strings.HasPrefix(s, "@@"):
		return names, fmt.Errorf("%q: %w", cut(s), errListAllow)
	case isFilter(s):
		return names, fmt.Errorf("%q: %w", cut(s), errListFilter)
	}
	var room [wire.MaxName]byte
	if _, _, err := appendName(room[:0], s); err != nil {
		return names, err
	}
	return append(names, s), nil
}

// isFilter reports whether a line belongs to another kind of list. Such lines are valid
// names, but would never match a host's name.
func isFilter(s string) bool {
	s = strings.TrimPrefix(s, "=")
	return strings.HasPrefix(s, "|") || strings.HasPrefix(s, "@@") || strings.HasPrefix(s, "!") ||
		strings.ContainsAny(s, "^$") || strings.Contains(s, "://") || strings.Contains(s, "=/")
}

// cut shortens a line for an error message.
func cut(s string) string {
	const most = 80
	if len(s) > most {
		return s[:most] + "…"
	}
	return s
}
