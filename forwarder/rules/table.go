// SPDX-License-Identifier: Apache-2.0

package rules

import (
	"encoding/binary"
	"hash/maphash"
	"math"
	"math/bits"

	"sotto/forwarder/wire"
)

const (
	listLen  = 4 // length of the list's number, which precedes an entry's name
	maxArena = math.MaxUint32

	// maxLabels is the maximum number of labels in a name of 255 bytes.
	maxLabels = 127
)

// entryLen returns the maximum length of an entry for a name with that many characters.
func entryLen(text int) int { return listLen + text + 2 }

// table maps names to lists. It is a hash table with open addressing and a fixed size, and
// has no pointers: a Go map uses two or three times the memory for a million names, which
// the garbage collector has to scan.
type table struct {
	seed   maphash.Seed
	slots  []slot
	arena  []byte    // entries: number of the list, name
	depths [2]uint64 // a bit for every number of labels that occurs
	count  int
}

// slot refers to an entry. Because of the tag, only one lookup in four billion reads an
// entry that does not match.
type slot struct {
	tag uint32
	at  uint32 // offset of the entry, plus 1; 0: none
}

// newTable returns a table for that many names, with entries of that total size.
func newTable(names, size int) table {
	return table{
		seed:  maphash.MakeSeed(),
		slots: make([]slot, names+names/3+1), // three quarters full
		arena: make([]byte, 0, size),
	}
}

// step returns the hash of a name from the hash h of the name without its first label.
func (t *table) step(h uint64, label []byte) uint64 {
	return (bits.RotateLeft64(h, 29) ^ maphash.Bytes(t.seed, label)) * 0x9E3779B97F4A7C15
}

// find returns the slot of a name, or the free slot for it.
func (t *table) find(h uint64, name []byte) *slot {
	hi, _ := bits.Mul64(h, uint64(len(t.slots)))
	for i := int(hi); ; i++ {
		if i == len(t.slots) {
			i = 0
		}
		s := &t.slots[i]
		if s.at == 0 || s.tag == uint32(h) && t.hasName(s, name) {
			return s
		}
	}
}

// hasName reports whether an entry has that name. A wire name has an end mark, so if a name
// is a prefix of another, they are equal.
func (t *table) hasName(s *slot, name []byte) bool {
	rest := t.arena[int(s.at)-1+listLen:]
	return len(rest) >= len(name) && string(rest[:len(name)]) == string(name)
}

// add returns the entry of a lower-case name, and adds one if there is none.
func (t *table) add(b []byte) (at int) {
	var n name
	n.read(b)
	h, depth := uint64(0), 0
	for ; depth < n.count; depth++ {
		h = t.step(h, n.label(depth))
	}
	s := t.find(h, b)
	if s.at == 0 {
		*s = slot{tag: uint32(h), at: uint32(len(t.arena)) + 1}
		t.arena = append(append(t.arena, 0, 0, 0, 0), b...)
		t.depths[depth>>6] |= 1 << (depth & 63)
		t.count++
	}
	return int(s.at) - 1
}

func (t *table) list(at int) uint32 { return binary.NativeEndian.Uint32(t.arena[at:]) }

func (t *table) setList(at int, id uint32) { binary.NativeEndian.PutUint32(t.arena[at:], id) }

// name is a lower-case wire name with the offsets of its labels.
type name struct {
	bytes  [wire.MaxName]byte
	starts [maxLabels + 1]uint8 // of its labels, and of the root byte
	count  int                  // of labels
	len    int
}

// read parses a name. It reports false if the name is malformed.
func (n *name) read(b []byte) bool {
	if len(b) == 0 || len(b) > len(n.bytes) {
		return false
	}
	off := 0
	for b[off] != 0 {
		size := int(b[off])
		if size > wire.MaxLabel || off+1+size >= len(b) {
			return false
		}
		n.starts[n.count] = uint8(off)
		n.count++
		off += 1 + size
	}
	n.starts[n.count] = uint8(off)
	n.len = off + 1
	for i, c := range b {
		n.bytes[i] = wire.Lower(c)
	}
	return n.len == len(b)
}

// label returns the label that depth labels follow, with its length.
func (n *name) label(depth int) []byte {
	i := n.count - 1 - depth
	return n.bytes[n.starts[i]:n.starts[i+1]]
}

// suffix returns the name's last labels, depth of them.
func (n *name) suffix(depth int) []byte { return n.bytes[n.starts[n.count-depth]:n.len] }

// walk is the lookup of a name and all above it, from the root.
type walk struct {
	t     *table
	n     *name
	h     uint64
	depth int    // labels of the current name; -1 before the first
	list  uint32 // its list; 0: none
}

func (t *table) walk(n *name) walk { return walk{t: t, n: n, depth: -1} }

// next continues with the next label. It reports false if there is none.
func (w *walk) next() bool {
	if w.depth == w.n.count {
		return false
	}
	if w.depth >= 0 {
		w.h = w.t.step(w.h, w.n.label(w.depth))
	}
	w.depth++
	w.list = 0
	if w.t.depths[w.depth>>6]&(1<<(w.depth&63)) != 0 {
		if s := w.t.find(w.h, w.n.suffix(w.depth)); s.at != 0 {
			w.list = w.t.list(int(s.at) - 1)
		}
	}
	return true
}

// whole reports whether the current name is the query's name.
func (w *walk) whole() bool { return w.depth == w.n.count }
