// SPDX-License-Identifier: Apache-2.0

package records

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

// maxLine limits the length of a line, which may have many names.
const maxLine = 64 << 10

var (
	errHostsAddress = errors.New("it does not start with an address: want ADDRESS NAME…; a list of names belongs in names-file")
	errHostsNoName  = errors.New("no name follows the address: add one, or remove the line")
	errHostsStar    = errors.New("a hosts file has no wildcards: write a rule with name and address, which includes all names below")
	errHostsMany    = fmt.Errorf("more than %d addresses for one name: remove some", MaxAddresses)
)

// Hosts collects the names of hosts files. The zero value is ready.
type Hosts struct {
	order []string                // lower-case wire names, as they first occur
	addrs map[string][]netip.Addr // of the names
	ptrs  map[string]string       // reverse name → first name of the first line with that address
	rev   []string                // reverse names, as they first occur
}

// Read reads a file in the format of hosts(5): an address and its names per line; a comment
// starts with #. A name on several lines, or in several files, has all of their addresses.
// An address has the first name of its first line as its own, except 0.0.0.0 and ::, which
// lists of blocked names use. Errors start with the name of the file and the line.
func (h *Hosts) Read(file string, r io.Reader) error {
	if h.addrs == nil {
		h.addrs, h.ptrs = map[string][]netip.Addr{}, map[string]string{}
	}
	lines := bufio.NewScanner(r)
	lines.Buffer(make([]byte, 0, 4096), maxLine)
	number := 0
	for lines.Scan() {
		line := lines.Bytes()
		if number++; number == 1 {
			line = bytes.TrimPrefix(line, []byte("\ufeff"))
		}
		line, _, _ = bytes.Cut(line, []byte("#"))
		if err := h.add(strings.Fields(string(line))); err != nil {
			return fmt.Errorf("%s:%d: %w", file, number, err)
		}
	}
	switch err := lines.Err(); {
	case errors.Is(err, bufio.ErrTooLong):
		return fmt.Errorf("%s:%d: it is longer than %d bytes: check that the file is a hosts file", file, number+1, maxLine)
	case err != nil:
		return fmt.Errorf("read %s: %w", file, err)
	}
	return nil
}

// add adds the words of a line.
func (h *Hosts) add(words []string) error {
	if len(words) == 0 {
		return nil
	}
	addr, err := netip.ParseAddr(words[0])
	if err != nil {
		return fmt.Errorf("%.80q: %w", words[0], errHostsAddress)
	}
	if err := check(addr); err != nil {
		return err
	}
	if len(words) == 1 {
		return fmt.Errorf("%q: %w", words[0], errHostsNoName)
	}
	for i, word := range words[1:] {
		name, err := parseName(word)
		if err != nil {
			return fmt.Errorf("%.80q: %w", word, err)
		}
		have, known := h.addrs[name]
		switch {
		case !known:
			h.order = append(h.order, name)
		case len(have) >= MaxAddresses:
			return fmt.Errorf("%.80q: %w", word, errHostsMany)
		}
		if !slices.Contains(have, addr) {
			h.addrs[name] = append(have, addr)
		}
		if i > 0 || addr.IsUnspecified() {
			continue
		}
		if rev := reverse(addr); h.ptrs[rev] == "" {
			h.ptrs[rev] = name
			h.rev = append(h.rev, rev)
		}
	}
	return nil
}

// parseName returns the lower-case wire form of a name.
func parseName(s string) (string, error) {
	var room [wire.MaxName]byte
	name, err := wire.AppendParsed(room[:0], s)
	if err != nil {
		return "", err
	}
	if len(name) >= 2 && string(name[:2]) == "\x01*" {
		return "", errHostsStar
	}
	return string(lower(name[:0], name)), nil
}

// Names returns the names that the files answer, reverse names included, each in the form
// "=NAME" of a rule's names.
func (h *Hosts) Names() []string {
	out := make([]string, 0, len(h.order)+len(h.rev))
	for _, name := range h.order {
		out = append(out, "="+wire.Name([]byte(name)))
	}
	for _, name := range h.rev {
		out = append(out, "="+wire.Name([]byte(name)))
	}
	return out
}

// Set returns a Set with the names that were read. Names with the same single address share
// their records, so a list of blocked names needs little memory.
func (h *Hosts) Set() *Set {
	s := &Set{names: make(map[string]*entry, len(h.order)+len(h.rev))}
	single := map[netip.Addr]*entry{}
	for _, name := range h.order {
		addrs := h.addrs[name]
		e := single[addrs[0]]
		if e == nil || len(addrs) > 1 {
			e = newEntry(addrs)
		}
		if len(addrs) == 1 {
			single[addrs[0]] = e
		}
		s.names[name] = e
	}
	for _, rev := range h.rev {
		e := new(entry)
		if have := s.names[rev]; have != nil { // the file has the reverse name as a name
			*e = *have
		}
		e.records = wire.AppendRecord(e.records[:len(e.records):len(e.records)], wire.TypePTR, []byte(h.ptrs[rev]))
		e.ptr = 1
		s.names[rev] = e
	}
	return s
}

// reverse returns the wire name whose PTR record has the name of an address (RFC 1035 §3.5,
// RFC 3596 §2.5).
func reverse(a netip.Addr) string {
	var b []byte
	bytes := a.AsSlice()
	if a.Is4() {
		for i := len(bytes) - 1; i >= 0; i-- {
			digits := fmt.Sprint(bytes[i])
			b = append(append(b, byte(len(digits))), digits...)
		}
		return string(b) + "\x07in-addr\x04arpa\x00"
	}
	const hex = "0123456789abcdef"
	for i := len(bytes) - 1; i >= 0; i-- {
		b = append(b, 1, hex[bytes[i]&15], 1, hex[bytes[i]>>4])
	}
	return string(b) + "\x03ip6\x04arpa\x00"
}
