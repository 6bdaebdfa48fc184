// SPDX-License-Identifier: Apache-2.0

package rules

import (
	"errors"
	"strings"
)

// maxGlob is the longest path that Linux has (PATH_MAX).
const maxGlob = 4096

// part is one part of a glob.
type part struct {
	kind kind
	text string // of literal
}

type kind uint8

const (
	literal kind = iota
	one          // ?: a character other than slash
	star         // *: any characters without a slash
	deep         // **: any characters
	levels       // **/ at the start or after a slash: nothing, or any characters that end in a slash
	below        // /** at the end: nothing, or a slash and any characters
)

// glob is a compiled pattern.
type glob []part

var (
	errGlobEmpty = errors.New("it is empty: write ** for every workload")
	errGlobLong  = errors.New("it is longer than any path: shorten it")
	errGlobStars = errors.New("it has three stars in a row: write ** to match across levels")
	errGlobClass = errors.New("character classes ([…]) are not supported: write ?, or a pattern for each")
	errGlobSlash = errors.New("no path has an empty level or ends in a slash: write x/** for x and everything below")
)

// compileGlob compiles a pattern of [Rule].Workloads.
func compileGlob(s string) (glob, error) {
	path := strings.TrimPrefix(s, "/")
	switch {
	case s == "":
		return nil, errGlobEmpty
	case len(s) > maxGlob:
		return nil, errGlobLong
	case strings.Contains(s, "***"):
		return nil, errGlobStars
	case strings.Contains(s, "["):
		return nil, errGlobClass
	case strings.Contains(s, "//"), strings.HasSuffix(path, "/"):
		return nil, errGlobSlash
	}
	var g glob
	for i := 0; i < len(path); {
		rest := path[i:]
		fresh := i == 0 || path[i-1] == '/'
		p, n := part{}, 1
		switch {
		case fresh && strings.HasPrefix(rest, "**/"):
			p.kind, n = levels, 3
		case rest == "/**":
			p.kind, n = below, 3
		case strings.HasPrefix(rest, "**"):
			p.kind, n = deep, 2
		case rest[0] == '*':
			p.kind = star
		case rest[0] == '?':
			p.kind = one
		default:
			if n = strings.IndexAny(rest, "*?"); n < 0 {
				n = len(rest)
			}
			if rest[n:] == "**" && rest[n-1] == '/' && n > 1 {
				n-- // the slash is part of below
			}
			p.text = rest[:n]
		}
		g = append(g, p)
		i += n
	}
	return g, nil
}

// matcher is the state of matching a glob with a path.
type matcher struct {
	g glob
	s string

	i, j         int  // the next part, and the offset in s where it has to match
	starI, starJ int  // the part after the last star (0: none), and the end of the star's match
	deepI, deepJ int  // the same for the last deep or levels
	byLevel      bool // that was levels
}

// match reports whether the glob matches all of s.
func (g glob) match(s string) bool {
	m := matcher{g: g, s: s}
	for {
		switch {
		case m.i == len(g) && m.j == len(s):
			return true
		case m.i < len(g) && m.advance(&g[m.i]):
		case !m.backtrack():
			return false
		}
	}
}

// advance moves past p if p matches at the current offset. Stars match the empty string at
// first.
func (m *matcher) advance(p *part) bool {
	rest := m.s[m.j:]
	switch p.kind {
	case literal:
		if !strings.HasPrefix(rest, p.text) {
			return false
		}
		m.j += len(p.text)
	case one:
		if rest == "" || rest[0] == '/' {
			return false
		}
		m.j++
	case star:
		m.starI, m.starJ = m.i+1, m.j
	case deep, levels:
		m.deepI, m.deepJ, m.byLevel = m.i+1, m.j, p.kind == levels
		m.starI = 0
	case below:
		if rest != "" && rest[0] != '/' {
			return false
		}
		m.j = len(m.s)
	}
	m.i++
	return true
}

// backtrack extends the match of the last star if possible, otherwise that of the last deep
// or levels. Earlier ones need not be tried: a suffix that matches after a longer match of
// an earlier part also matches after a shorter one, and a star does not match slashes.
func (m *matcher) backtrack() bool {
	if m.starI != 0 && m.starJ < len(m.s) && m.s[m.starJ] != '/' {
		m.starJ++
		m.i, m.j = m.starI, m.starJ
		return true
	}
	if m.deepI == 0 || m.deepJ == len(m.s) {
		return false
	}
	more := 1
	if m.byLevel {
		if more += strings.IndexByte(m.s[m.deepJ:], '/'); more == 0 {
			return false
		}
	}
	m.deepJ += more
	m.i, m.j, m.starI = m.deepI, m.deepJ, 0
	return true
}
