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
	errListFilter  = errors.New("it is a filter or a URL, not a name: use the list in hosts-file format or with names only")
)

// ReadNames reads a list of names in the form of [Rule].Names, one per line. A comment
// starts with #, and empty lines are skipped. A line in the format of a hosts file,
// "0.0.0.0 NAME…" (also 127.0.0.1, :: and ::1), means exactly those names and not those
// below, as in a hosts file. They are returned as "=NAME", without names of the machine
// itself, such as localhost. Errors of the list have the line number.
func ReadNames(r io.Reader) ([]string, error) {
	var names []string
	lines := bufio.NewScanner(r)
	lines.Buffer(make([]byte, 0, 4096), maxLine)
	number := 0
	for lines.Scan() {
		line := lines.Bytes()
		if number++; number == 1 {
			line = bytes.TrimPrefix(line, []byte("\ufeff"))
		}
		line, _, _ = bytes.Cut(line, []byte("#"))
		var err error
		if names, err = appendLine(names, string(bytes.TrimSpace(line))); err != nil {
			return nil, fmt.Errorf("line %d: %w", number, err)
		}
	}
	switch err := lines.Err(); {
	case errors.Is(err, bufio.ErrTooLong):
		return nil, fmt.Errorf("line %d: it is longer than %d bytes: check that the file is a list of names", number+1, maxLine)
	case err != nil:
		return nil, fmt.Errorf("read the list of names: %w", err)
	}
	return names, nil
}

// appendLine appends the names in a line of a list.
func appendLine(names []string, line string) ([]string, error) {
	if line == "" {
		return names, nil
	}
	words := strings.Fields(line)
	addr, err := netip.ParseAddr(words[0])
	switch {
	case err == nil && len(words) == 1:
		return names, fmt.Errorf("%q: %w", line, errListAddress)
	case err != nil && len(words) > 1:
		return names, fmt.Errorf("%q: %w", cut(line), errListWords)
	case err != nil:
		err = appendChecked(&names, line)
		return names, err
	}
	blocks := addr.IsUnspecified() || addr.IsLoopback()
	for _, word := range words[1:] {
		if slices.Contains(localNames, word) {
			continue
		}
		if !blocks {
			return names, fmt.Errorf("%q: %w", cut(line), errListHosts)
		}
		if err := appendChecked(&names, "="+word); err != nil {
			return names, err
		}
	}
	return names, nil
}

// appendChecked appends a name if [Compile] accepts it.
func appendChecked(names *[]string, s string) error {
	if isFilter(s) {
		return fmt.Errorf("%q: %w", cut(s), errListFilter)
	}
	var room [wire.MaxName]byte
	if _, _, err := appendName(room[:0], s); err != nil {
		return err
	}
	*names = append(*names, s)
	return nil
}

// isFilter reports whether a line belongs to another kind of list. Such lines are valid
// names, but would never match a host's name.
func isFilter(s string) bool {
	s = strings.TrimPrefix(s, "=")
	for _, prefix := range []string{"||", "@@", "!"} {
		if strings.HasPrefix(s, prefix) {
			return true
		}
	}
	return strings.HasSuffix(s, "^") || strings.Contains(s, "://") || strings.Contains(s, "=/")
}

// cut shortens a line for an error message.
func cut(s string) string {
	const most = 80
	if len(s) > most {
		return s[:most] + "…"
	}
	return s
}
