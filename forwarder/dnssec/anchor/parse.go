// SPDX-License-Identifier: Apache-2.0

package anchor

import (
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"sotto/forwarder/dnssec/record"
	"sotto/forwarder/dnssec/signature"
	"sotto/forwarder/wire"
)

// Parse adds the trust anchors in the text of a file: DS and DNSKEY records in presentation form,
// as in the root.key of unbound and in the key files of dnssec-keygen. Other records are errors,
// and so is a file without any. An error names the line.
func (s *Set) Parse(text string) error {
	before := s.Len()
	var owner record.Name // of the previous record
	for _, entry := range entries(text) {
		if entry.open {
			return fmt.Errorf("line %d: a parenthesis is not closed", entry.line)
		}
		var err error
		if owner, err = s.parseRecord(entry, owner); err != nil {
			return fmt.Errorf("line %d: %w", entry.line, err)
		}
	}
	if s.Len() == before {
		return errors.New("it has no DS or DNSKEY record")
	}
	return nil
}

// entry is one record of a file. Parentheses continue it over several lines.
type entry struct {
	line   int
	fields []string
	open   bool
	blank  bool // it starts with a blank: the owner is omitted
}

func entries(text string) (all []entry) {
	var e entry
	for i, line := range strings.Split(text, "\n") {
		line, _, _ = strings.Cut(line, ";")
		if !e.open && len(e.fields) == 0 {
			e.blank = strings.HasPrefix(line, " ") || strings.HasPrefix(line, "\t")
		}
		for _, field := range strings.Fields(strings.NewReplacer("(", " ( ", ")", " ) ").Replace(line)) {
			switch {
			case field == "(":
				e.open = true
			case field == ")":
				e.open = false
			default:
				if len(e.fields) == 0 {
					e.line = i + 1
				}
				e.fields = append(e.fields, field)
			}
		}
		if !e.open && len(e.fields) > 0 {
			all, e = append(all, e), entry{}
		}
	}
	if e.open {
		e.line = max(e.line, 1)
		all = append(all, e)
	}
	return all
}

var errForm = errors.New(`want a DS or DNSKEY record, such as ". IN DS 20326 8 2 E06D44B8…"`)

var (
	errOwner = errors.New("a line that starts with a blank has the owner of the record before it, and there is none: write the owner first")
	errBlank = fmt.Errorf("%w, without the owner in a line that starts with a blank", errForm)
)

// parseRecord parses "[owner] [TTL] [class] DS|DNSKEY data", and returns the owner. Without one, it
// is that of the previous record (RFC 1035 §5.1).
func (s *Set) parseRecord(e entry, previous record.Name) (name record.Name, err error) {
	fields, at := e.fields, 0
	if name = previous; !e.blank {
		if name, err = ParseName(fields[0]); err != nil {
			return "", err
		}
		at = 1
	} else if name == "" {
		return "", errOwner
	}
	for range 2 {
		if at < len(fields) && (strings.EqualFold(fields[at], "IN") || isNumber(fields[at])) {
			at++
		}
	}
	err = s.parseData(name, fields[at:])
	if e.blank && err == errForm {
		err = errBlank
	}
	return name, err
}

// parseData parses the type and the data of a record.
func (s *Set) parseData(name record.Name, fields []string) error {
	if len(fields) < 5 || !strings.EqualFold(fields[0], "DS") && !strings.EqualFold(fields[0], "DNSKEY") {
		return errForm
	}
	var n [3]uint64
	for i, bits := range []int{16, 8, 8} {
		var err error
		if n[i], err = strconv.ParseUint(fields[1+i], 10, bits); err != nil {
			return fmt.Errorf("%q is not a number of %d bits: %w", fields[1+i], bits, errForm)
		}
	}
	data := strings.Join(fields[4:], "")
	if strings.EqualFold(fields[0], "DS") {
		return s.parseDS(name, n, data)
	}
	return s.parseKey(name, n, data)
}

func isNumber(s string) bool { _, err := strconv.ParseUint(s, 10, 32); return err == nil }

func (s *Set) parseDS(name record.Name, n [3]uint64, data string) error {
	digest, err := hex.DecodeString(data)
	ds := record.DS{Tag: uint16(n[0]), Algorithm: uint8(n[1]), Type: uint8(n[2]), Digest: digest}
	switch {
	case err != nil || len(digest) == 0:
		return errors.New("the digest is not hexadecimal")
	case !signature.SupportedDigest(ds.Type):
		return fmt.Errorf("digest type %d is not supported: want 1, 2 or 4", ds.Type)
	case !signature.Supported(ds.Algorithm, true):
		return fmt.Errorf("algorithm %d is not supported", ds.Algorithm)
	}
	s.AddDS(name, ds)
	return nil
}

func (s *Set) parseKey(name record.Name, n [3]uint64, data string) error {
	public, err := base64.StdEncoding.DecodeString(data)
	if err != nil {
		return errors.New("the key is not in base64")
	}
	key := record.DNSKEY(append([]byte{byte(n[0] >> 8), byte(n[0]), byte(n[1]), byte(n[2])}, public...))
	if key.Flags()&record.FlagRevoke != 0 {
		return nil // BIND and unbound keep revoked keys in their files
	}
	if _, ok := signature.NewKey(key, true); !ok {
		return errors.New("the key is not one of a zone, or its algorithm or size is not supported")
	}
	s.AddKey(name, key)
	return nil
}

// ParseName parses a name in presentation form.
func ParseName(text string) (record.Name, error) {
	name, err := wire.AppendParsed(nil, text)
	if err != nil {
		return "", fmt.Errorf("%q is not a name: %w", text, err)
	}
	return record.FromWire(name), nil
}
