// SPDX-License-Identifier: Apache-2.0

package redis

import (
	"bytes"
	"errors"
	"net"
	"strconv"
)

// maxLine limits a line of a reply, such as the text of an error.
const maxLine = 1024

var (
	errArray = errors.New("the server sent an array, which was not requested")
	errLine  = errors.New("the server sent a line that is too long")
	errValue = errors.New("the server sent a value that is invalid or longer than requested")
)

// replies is a connection whose Read fails at a reply that was not requested. The library trusts
// the server: it allocates any length, and reads arrays recursively.
type replies struct {
	net.Conn
	limit int // of a value, in bytes

	line []byte // the start of a line that is being read
	rest int    // bytes of a value that follow, with its line end
}

// Read implements [net.Conn].
func (r *replies) Read(p []byte) (int, error) {
	n, err := r.Conn.Read(p)
	if invalid := r.check(p[:n]); invalid != nil {
		return 0, invalid
	}
	return n, err
}

// check checks the next bytes of the stream.
func (r *replies) check(p []byte) error {
	for len(p) > 0 {
		if skip := min(r.rest, len(p)); skip > 0 {
			r.rest -= skip
			p = p[skip:]
			continue
		}
		line, rest, complete := bytes.Cut(p, []byte("\n"))
		r.line = append(r.line, line...)
		p = rest
		switch {
		case len(r.line) > maxLine:
			return errLine
		case len(r.line) > 0 && r.line[0] == '*':
			return errArray
		}
		if complete {
			if err := r.value(); err != nil {
				return err
			}
			r.line = r.line[:0]
		}
	}
	return nil
}

// value sets rest if the line announces a value.
func (r *replies) value() error {
	if len(r.line) == 0 || r.line[0] != '$' {
		return nil
	}
	n, err := strconv.Atoi(string(bytes.TrimSuffix(r.line[1:], []byte("\r"))))
	if err != nil || n < -1 || n > r.limit {
		return errValue
	}
	if n >= 0 {
		r.rest = n + len("\r\n")
	}
	return nil
}
