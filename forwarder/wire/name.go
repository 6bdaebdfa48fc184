// SPDX-License-Identifier: Apache-2.0

package wire

import "errors"

// maxPointers limits the compression pointers of one name. A name of 255 bytes can have
// as many labels, so only chains that are made to be slow are refused.
const maxPointers = 126

// Errors of names.
var (
	errNameEnd     = errors.New("name runs past its end")
	errNameLen     = errors.New("name is longer than 255 bytes")
	errLabelType   = errors.New("label type is neither plain nor a pointer")
	errPointer     = errors.New("compression pointer to something other than an earlier name")
	errPointers    = errors.New("too many compression pointers in one name")
	errQuestionPtr = errors.New("compression pointer in the question")
)

// plainName returns the offset after the uncompressed name at off. A label may
// hold any bytes (RFC 2181 §11), dots and zeros included.
func plainName(msg []byte, off int) (int, error) {
	start := off
	for off < len(msg) {
		n := int(msg[off])
		switch {
		case n == 0:
			return off + 1, nil
		case n >= 0xC0:
			return 0, errQuestionPtr
		case n > MaxLabel:
			return 0, errLabelType
		}
		if off += 1 + n; off-start >= MaxName { // no room for the root byte
			return 0, errNameLen
		}
	}
	return 0, errNameEnd
}

// skipName returns the offset after the name at off, which may be compressed. Each
// pointer has to refer to an offset before the part of the name that it ends (RFC 1035
// §4.1.4: a prior occurrence), so pointers cannot form a loop.
func skipName(msg []byte, off int) (int, error) {
	end, size, hops := 0, 0, 0
	for piece := off; off < len(msg); {
		n := int(msg[off])
		switch {
		case n == 0:
			if end == 0 {
				end = off + 1
			}
			return end, nil
		case n >= 0xC0:
			if off+2 > len(msg) {
				return 0, errNameEnd
			}
			if end == 0 {
				end = off + 2
			}
			to := n&0x3F<<8 | int(msg[off+1])
			if to >= piece || to < HeaderLen {
				return 0, errPointer
			}
			if hops++; hops > maxPointers {
				return 0, errPointers
			}
			off, piece = to, to
			continue
		case n > MaxLabel:
			return 0, errLabelType
		}
		off += 1 + n
		if size += 1 + n; size >= MaxName {
			return 0, errNameLen
		}
	}
	return 0, errNameEnd
}

// appendPlain appends the name at off uncompressed. [skipName] must have accepted it.
func appendPlain(dst, msg []byte, off int) []byte {
	for {
		switch n := int(msg[off]); {
		case n == 0:
			return append(dst, 0)
		case n >= 0xC0:
			off = n&0x3F<<8 | int(msg[off+1])
		default:
			dst = append(dst, msg[off:off+1+n]...)
			off += 1 + n
		}
	}
}

// Lower converts an ASCII letter to lower case, the only case folding in DNS (RFC 4343
// §3). It may be applied to a whole wire name, since a label's length is at most 63 and
// 'A' is 65.
func Lower(c byte) byte {
	if 'A' <= c && c <= 'Z' {
		return c + ('a' - 'A')
	}
	return c
}

// sameName reports whether two wire names are equal except for case.
func sameName(a, b []byte) bool {
	if len(a) != len(b) {
		return false
	}
	for i, c := range a {
		if c != b[i] && Lower(c) != Lower(b[i]) {
			return false
		}
	}
	return true
}

// AppendName appends the presentation form of an uncompressed wire name: dots between
// labels and at the end, and special and non-printable characters escaped (RFC 1035 §5.1,
// RFC 4343 §2.1), so that it is safe to log. Of a malformed name it appends what can be
// parsed.
func AppendName(dst, name []byte) []byte {
	if len(name) == 0 || name[0] == 0 {
		return append(dst, '.')
	}
	for len(name) > 0 && name[0] != 0 {
		n := min(int(name[0]), len(name)-1)
		for _, c := range name[1 : 1+n] {
			switch {
			case c == '.' || c == '\\' || c == '"' || c == ';' || c == '(' || c == ')' || c == '@' || c == '$':
				dst = append(dst, '\\', c)
			case c <= ' ' || c >= 0x7F:
				dst = append(dst, '\\', '0'+c/100, '0'+c/10%10, '0'+c%10)
			default:
				dst = append(dst, c)
			}
		}
		dst = append(dst, '.')
		name = name[1+n:]
	}
	return dst
}

// Name returns the result of AppendName as a string.
func Name(name []byte) string { return string(AppendName(nil, name)) }
