// SPDX-License-Identifier: Apache-2.0

package rules

import (
	"errors"
	"strings"
)

// maxGlob is the longest path that Linux has (PATH_MAX).
const maxGlob = 4096

// part is one piece of a glob.
type part struct {
	kind kind
	text string // of literal
}

type kind uint8

const (
	literal kind = iota
	one          // ?: a character that is no slash
	star         // *: a run without a slash
	deep         // **: any run
	levels       // **/ at the start or after a slash: nothing, or a run that ends in a slash
	below        // /** at the end: nothing, or a slash and any run
)

// glob is a compiled pattern.
type glob []part

var (
	errGlobEmpty = errors.New("it is empty: write ** for every workload")
	errGlobLong  = errors.New("it is longer than any path: shorten it")
	errGlobStars = errors.New("it has three stars in a row: write ** for a run that crosses levels")
	errGlobClass = errors.New("classes of characters ([…]) are not known here: write ?, or a pattern for each")
	errGlobSlash = errors.New("no path has an empty level or ends in a slash: write x/** for x and all below")
)

// compileGlob reads a pattern as [Rule].Workloads has it.
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
				n-- // the slash is below's
			}
			p.text = rest[:n]
		}
		g = append(g, p)
		i += n
	}
	return g, nil
}

// matching is how far a glob has got with a path.
type matching struct {
	g glob
	s string

	i, j         int  // the next part, and where in s it has to fit
	starI, starJ int  // the part after the last star, 0: none; and where that star ends
	deepI, deepJ int  // likewise of deep and levels
	byLevel      bool // it was levels
}

// match reports whether the glob is for all of s.
func (g glob) match(s string) bool {
	m := matching{g: g, s: s}
	for {
		switch {
		case m.i == len(g) && m.j == len(s):
			return true
		case m.i < len(g) && m.fits(&g[m.i]):
		case !m.back():
			return false
		}
	}
}

// fits goes past p, if it fits where the matching is. Runs fit, empty at first.
func (m *matching) fits(p *part) bool {
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

// back has the last run take more: the last star if it can, else the last run of
// the other kinds. Earlier ones need not be tried: what fits behind a run that
// ends later fits behind one that ends sooner, and the slashes between two stars
// are where they are.
func (m *matching) back() bool {
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
