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
	listLen  = 4 // the number of an entry's list, in front of its name
	maxArena = math.MaxUint32

	// maxLabels is how many labels a name of 255 bytes can have.
	maxLabels = 127
)

// entryLen is the most that an entry takes whose name has so many characters.
func entryLen(text int) int { return listLen + text + 2 }

// table finds the list of a name. It is a hash table with open addressing whose
// size is known beforehand, and without a pointer in it: a Go map takes two or
// three times the memory for a million names, and has the collector look at each.
type table struct {
	seed   maphash.Seed
	slots  []slot
	arena  []byte    // entries: the number of the list, the name
	depths [2]uint64 // a bit for every number of labels that a name in it has
	count  int
}

// slot is an entry's place. The tag keeps all but one look-up in four billion
// from reading an entry that is not the one looked for.
type slot struct {
	tag uint32
	at  uint32 // offset of the entry, plus 1; 0: none
}

// newTable has room for so many names, and entries of that size in all.
func newTable(names, size int) table {
	return table{
		seed:  maphash.MakeSeed(),
		slots: make([]slot, names+names/3+1), // three quarters full
		arena: make([]byte, 0, size),
	}
}

// step is the hash of a name of which all but the first label have the hash h.
func (t *table) step(h uint64, label []byte) uint64 {
	return (bits.RotateLeft64(h, 29) ^ maphash.Bytes(t.seed, label)) * 0x9E3779B97F4A7C15
}

// find returns the slot of a name, or the free one where it belongs.
func (t *table) find(h uint64, name []byte) *slot {
	hi, _ := bits.Mul64(h, uint64(len(t.slots)))
	for i := int(hi); ; i++ {
		if i == len(t.slots) {
			i = 0
		}
		s := &t.slots[i]
		if s.at == 0 || s.tag == uint32(h) && t.is(s, name) {
			return s
		}
	}
}

// is reports whether an entry has that name. Wire names say where they end, so
// one that starts like another is the other.
func (t *table) is(s *slot, name []byte) bool {
	rest := t.arena[int(s.at)-1+listLen:]
	return len(rest) >= len(name) && string(rest[:len(name)]) == string(name)
}

// add returns the entry of a name in lower case, a new one if there is none.
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

// name is a wire name in lower case, and where its labels are.
type name struct {
	bytes  [wire.MaxName]byte
	starts [maxLabels + 1]uint8 // of its labels, and of the root byte
	count  int                  // of labels
	len    int
}

// read takes a name; false: it is not well-formed.
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
		n.bytes[i] = lower(c)
	}
	return n.len == len(b)
}

// label is the label with so many behind it, its length in front.
func (n *name) label(depth int) []byte {
	i := n.count - 1 - depth
	return n.bytes[n.starts[i]:n.starts[i+1]]
}

// suffix is the name's last labels, so many.
func (n *name) suffix(depth int) []byte { return n.bytes[n.starts[n.count-depth]:n.len] }

// walk is the look-up of a name and all above it, from the root.
type walk struct {
	t     *table
	n     *name
	h     uint64
	depth int    // of the name looked at; -1 before the first
	list  uint32 // of that name; 0: none
}

func (t *table) walk(n *name) walk { return walk{t: t, n: n, depth: -1} }

// next goes one label down; false: there is none.
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

// whole reports whether the name looked at is the one asked for.
func (w *walk) whole() bool { return w.depth == w.n.count }
