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

// maxLine bounds a line of a list. Of a hosts file's it may hold many names.
const maxLine = 64 << 10

// localNames are what a hosts file begins with, and means of the machine itself.
var localNames = []string{
	"localhost", "localhost.localdomain", "local", "broadcasthost", "0.0.0.0",
	"ip6-localhost", "ip6-loopback", "ip6-localnet", "ip6-mcastprefix",
	"ip6-allnodes", "ip6-allrouters", "ip6-allhosts",
}

var (
	errListAddress = errors.New("it is an address: a list has one name a line")
	errListWords   = errors.New("it has more than one word: a list has one name a line")
	errListHosts   = errors.New("it gives names an address, which a list does not: keep the names, or block them with 0.0.0.0")
	errListFilter  = errors.New("it is a filter or a URL, and no name: use the list's edition for hosts files, or with plain names")
)

// ReadNames reads a list of names, as [Rule].Names has them, one a line. Behind #
// is a comment, and empty lines are skipped. A line in the form of a hosts file,
// "0.0.0.0 NAME…" (also 127.0.0.1, :: and ::1), stands for those names alone and
// nothing below them, as it does there: they are returned as "=NAME"; names of
// the machine itself, such as localhost, are left out. An error of the list has the
// line's number.
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
		return nil, fmt.Errorf("line %d: it is longer than %d bytes: is this a list of names?", number+1, maxLine)
	case err != nil:
		return nil, fmt.Errorf("read the list of names: %w", err)
	}
	return names, nil
}

// appendLine appends the names in one line of a list.
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

// appendChecked appends a name that [Compile] will take.
func appendChecked(names *[]string, s string) error {
	if looksFilter(s) {
		return fmt.Errorf("%q: %w", cut(s), errListFilter)
	}
	var room [wire.MaxName]byte
	if _, _, err := appendName(room[:0], s); err != nil {
		return err
	}
	*names = append(*names, s)
	return nil
}

// looksFilter knows the other kinds of lists by what no host's name has: as a
// name such a line would be valid, and never match.
func looksFilter(s string) bool {
	s = strings.TrimPrefix(s, "=")
	for _, prefix := range []string{"||", "@@", "!"} {
		if strings.HasPrefix(s, prefix) {
			return true
		}
	}
	return strings.HasSuffix(s, "^") || strings.Contains(s, "://") || strings.Contains(s, "=/")
}

// cut shortens what is shown of a line.
func cut(s string) string {
	const most = 80
	if len(s) > most {
		return s[:most] + "…"
	}
	return s
}
