// SPDX-License-Identifier: Apache-2.0

package record

import (
	"strings"

	"sotto/forwarder/wire"
)

// Name is a domain name in wire form: uncompressed, lower-case, with the root byte. The zero
// value is not a name.
type Name string

// Root is the name of the root zone.
const Root Name = "\x00"

// maxLabels is the largest number of labels that a name can have, without the root.
const maxLabels = 127

// String returns the name in presentation form.
func (n Name) String() string { return wire.Name([]byte(n)) }

// Labels returns the number of labels, without the root.
func (n Name) Labels() (count int) {
	for at := 0; at < len(n) && n[at] != 0; at += 1 + int(n[at]) {
		count++
	}
	return count
}

// Parent returns the name without its first label. The parent of the root is the root.
func (n Name) Parent() Name {
	if len(n) <= 1 {
		return Root
	}
	return n[1+int(n[0]):]
}

// Suffix returns the last count labels of the name, which has at least as many.
func (n Name) Suffix(count int) Name {
	for range n.Labels() - count {
		n = n.Parent()
	}
	return n
}

// Within reports whether the name is zone or below it.
func (n Name) Within(zone Name) bool {
	cut := len(n) - len(zone)
	if cut < 0 || n[cut:] != zone {
		return false
	}
	at := 0
	for at < cut {
		at += 1 + int(n[at])
	}
	return at == cut
}

// Below reports whether the name is below zone.
func (n Name) Below(zone Name) bool { return n != zone && n.Within(zone) }

// Wildcard returns the name of the wildcard directly below n. It reports false if that would be
// too long.
func (n Name) Wildcard() (Name, bool) {
	if len(n)+2 > wire.MaxName {
		return "", false
	}
	return "\x01*" + n, true
}

// IsWildcard reports whether the first label is an asterisk.
func (n Name) IsWildcard() bool { return strings.HasPrefix(string(n), "\x01*") }

// Common returns the longest name that both a and b are within.
func Common(a, b Name) Name {
	for !b.Within(a) {
		a = a.Parent()
	}
	return a
}

// labelStarts fills at with the offsets of n's labels, and returns their number.
func labelStarts(n Name, at *[maxLabels]uint8) (count int) {
	for off := 0; off < len(n) && n[off] != 0 && count < maxLabels; off += 1 + int(n[off]) {
		at[count] = uint8(off)
		count++
	}
	return count
}

// Compare compares two names in canonical order (RFC 4034 §6.1).
func Compare(a, b Name) int {
	var x, y [maxLabels]uint8
	i, j := labelStarts(a, &x), labelStarts(b, &y)
	for i > 0 && j > 0 {
		i, j = i-1, j-1
		if c := strings.Compare(string(label(a, int(x[i]))), string(label(b, int(y[j])))); c != 0 {
			return c
		}
	}
	return i - j
}

func label(n Name, at int) Name { return n[at+1 : at+1+int(n[at])] }

// FromWire returns the name for a wire name without compression, as in [wire.Query].
func FromWire(name []byte) Name {
	var room [wire.MaxName]byte
	b := room[:0]
	for _, c := range name {
		b = append(b, wire.Lower(c))
	}
	return Name(b)
}

// appendName appends the name at off of msg, uncompressed, and returns the offset after it.
// Length bytes are below 64, so that lower-casing them changes nothing.
func appendName(dst, msg []byte, off int, lower bool) (_ []byte, end int, ok bool) {
	size, low := 0, off
	for off < len(msg) {
		n := int(msg[off])
		switch {
		case n == 0:
			if end == 0 {
				end = off + 1
			}
			return append(dst, 0), end, true
		case n >= 0xC0:
			if off+2 > len(msg) {
				return dst, 0, false
			}
			if end == 0 {
				end = off + 2
			}
			to := n&0x3F<<8 | int(msg[off+1])
			if to >= low { // each pointer refers to an earlier place, so this ends
				return dst, 0, false
			}
			off, low = to, to
			continue
		case n > wire.MaxLabel || off+1+n > len(msg):
			return dst, 0, false
		}
		if size += 1 + n; size >= wire.MaxName {
			return dst, 0, false
		}
		at := len(dst)
		dst = append(dst, msg[off:off+1+n]...)
		if lower {
			for i := at + 1; i < len(dst); i++ {
				dst[i] = wire.Lower(dst[i])
			}
		}
		off += 1 + n
	}
	return dst, 0, false
}
