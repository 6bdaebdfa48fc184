// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
)

// typeNumbers is the reverse of typeNames.
var typeNumbers = func() map[string]uint16 {
	m := make(map[string]uint16, len(typeNames))
	for t, name := range typeNames {
		m[name] = t
	}
	return m
}()

// TypeNames returns the mnemonics of all types that have one, sorted.
func TypeNames() []string { return slices.Sorted(maps.Keys(typeNumbers)) }

// ParseType parses the forms of [TypeName]: a mnemonic in any case, or TYPE12345 (RFC 3597
// §5). ANY is the query type 255.
func ParseType(s string) (t uint16, ok bool) {
	s = strings.ToUpper(s)
	if t, ok = typeNumbers[s]; ok {
		return t, true
	}
	digits, ok := strings.CutPrefix(s, "TYPE")
	if !ok {
		return 0, false
	}
	n, err := strconv.ParseUint(digits, 10, 16)
	return uint16(n), err == nil
}

// Errors of names in presentation form.
var (
	errTextEmpty  = errors.New("it is empty: write . for the root")
	errTextDots   = errors.New("it has an empty label: write one dot between labels")
	errTextEscape = errors.New(`a \ is followed by neither a character nor three digits up to 255 (RFC 1035 §5.1)`)
	errTextBytes  = errors.New("it has a space or a character that is not ASCII: " +
		`write the name as it is in DNS (xn--… for an international one), or the byte as \DDD`)
	errTextLabel = fmt.Errorf("a label has more than %d bytes: shorten it", MaxLabel)
	errTextName  = fmt.Errorf("it has more than %d bytes on the wire: shorten it", MaxName)
)

// AppendParsed appends the wire form, root byte included, of a name in presentation form
// (see [AppendName]); the last dot is optional. Only dots, backslashes, spaces, control
// characters and bytes above 126 have to be escaped. On an error, which explains the fix,
// dst is returned unchanged.
func AppendParsed(dst []byte, s string) ([]byte, error) {
	start := len(dst)
	switch s {
	case "":
		return dst, errTextEmpty
	case ".":
		return append(dst, 0), nil
	}
	label := start // offset of the current label's length
	out := append(dst, 0)
	for i := 0; i < len(s); {
		c := s[i]
		i++
		switch {
		case c == '.':
			if len(out) == label+1 {
				return dst, errTextDots
			}
			label = len(out)
			out = append(out, 0)
			continue
		case c == '\\':
			var n int
			if c, n = unescape(s[i:]); n == 0 {
				return dst, errTextEscape
			}
			i += n
		case c <= ' ' || c >= 0x7F:
			return dst, errTextBytes
		}
		if out[label]++; out[label] > MaxLabel {
			return dst, errTextLabel
		}
		out = append(out, c)
	}
	if len(out) > label+1 { // no dot at the end
		out = append(out, 0)
	}
	if len(out)-start > MaxName {
		return dst, errTextName
	}
	return out, nil
}

// unescape parses the n bytes that follow a backslash. n is 0 if they are invalid.
func unescape(s string) (c byte, n int) {
	switch {
	case s == "":
		return 0, 0
	case s[0] < '0' || s[0] > '9':
		return s[0], 1
	case len(s) < 3:
		return 0, 0
	}
	v, err := strconv.ParseUint(s[:3], 10, 8)
	if err != nil {
		return 0, 0
	}
	return byte(v), 3
}
