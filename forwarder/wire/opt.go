// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"encoding/binary"
	"strings"
	"unicode"
	"unicode/utf8"
)

const (
	optLen    = 11 // an OPT record without options, its root owner included
	optionLen = 4  // an option's code and length

	optCookie    = 10 // RFC 7873
	optKeepalive = 11 // RFC 7828
	optPadding   = 12 // RFC 7830
	optEDE       = 15 // RFC 8914

	// maxEDEs and maxEDEText limit what is stored and sent of an upstream's EDEs. An
	// error for the longest question with a text of 200 bytes fits in 512, if the reply
	// has no cookie.
	maxEDEs    = 8
	maxEDEText = 200
)

// EDE is one Extended DNS Error (RFC 8914). Text is UTF-8; of a longer text the first
// 200 bytes are sent.
type EDE struct {
	Code uint16
	Text string
}

// nextOption splits the first option off an OPT record's RDATA. It reports false if the
// option is incomplete.
func nextOption(data []byte) (code uint16, value, rest []byte, ok bool) {
	if len(data) < optionLen {
		return 0, nil, nil, false
	}
	end := optionLen + int(binary.BigEndian.Uint16(data[2:]))
	if end > len(data) {
		return 0, nil, nil, false
	}
	return binary.BigEndian.Uint16(data), data[optionLen:end], data[end:], true
}

// usesEDNS reports whether a malformed query has an OPT record, however incomplete, before
// the first record that cannot be skipped. The reply then needs one too: without it, the
// client would conclude that EDNS is not supported (RFC 6891 §7).
func usesEDNS(msg []byte) bool {
	off := HeaderLen
	for range binary.BigEndian.Uint16(msg[4:]) {
		next, err := skipName(msg, off)
		if err != nil || next+4 > len(msg) {
			return false
		}
		off = next + 4
	}
	an, ns, ar := counts(msg)
	for range an + ns + ar {
		if off+3 <= len(msg) && msg[off] == 0 && binary.BigEndian.Uint16(msg[off+1:]) == TypeOPT {
			return true
		}
		rr, err := skipRecord(msg, off)
		if err != nil {
			return false
		}
		off = rr.end
	}
	return false
}

// readEDE parses the value of an EDE option. Invalid UTF-8 and control characters,
// including the trailing NUL of some senders, are removed from the text, since it goes to
// clients' terminals and to logs.
func readEDE(value []byte) (EDE, bool) {
	if len(value) < 2 {
		return EDE{}, false
	}
	text := value[2:]
	if len(text) > 2*maxEDEText {
		text = text[:2*maxEDEText]
	}
	s := strings.Map(func(r rune) rune {
		if r == utf8.RuneError || unicode.IsControl(r) {
			return -1
		}
		return r
	}, string(text))
	return EDE{Code: binary.BigEndian.Uint16(value), Text: cut(s)}, true
}

// cut shortens s to the length that is sent, between two runes.
func cut(s string) string {
	if len(s) <= maxEDEText {
		return s
	}
	n := maxEDEText
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n]
}

// appendOPT appends an OPT record up to its options, which take size bytes.
func appendOPT(dst []byte, rcode uint16, do bool, size int) []byte {
	flags := byte(0)
	if do {
		flags = bitDO
	}
	return append(dst,
		0, byte(TypeOPT>>8), byte(TypeOPT),
		UDPSize>>8, UDPSize&0xFF,
		byte(rcode>>4), 0, flags, 0, // extended rcode, version 0, flags
		byte(size>>8), byte(size))
}

// detail is how much of its EDEs a reply contains.
type detail uint8

const (
	detailNone  detail = iota
	detailCodes        // without their texts
	detailFull
)

// edeSize returns the length of the options for EDEs.
func edeSize(d detail, ede []EDE) int {
	if d == detailNone {
		return 0
	}
	n := (optionLen + 2) * len(ede)
	if d == detailFull {
		for i := range ede {
			n += len(cut(ede[i].Text))
		}
	}
	return n
}

func appendEDE(dst []byte, d detail, ede []EDE) []byte {
	if d == detailNone {
		return dst
	}
	for i := range ede {
		text := ""
		if d == detailFull {
			text = cut(ede[i].Text)
		}
		n := 2 + len(text)
		dst = append(dst, 0, optEDE, byte(n>>8), byte(n), byte(ede[i].Code>>8), byte(ede[i].Code))
		dst = append(dst, text...)
	}
	return dst
}

// fitEDEs returns how much of two lists of EDEs fits into room bytes of options.
func fitEDEs(room int, a, b []EDE) detail {
	for d := detailFull; d > detailNone; d-- {
		if edeSize(d, a)+edeSize(d, b) <= room {
			return d
		}
	}
	return detailNone
}
