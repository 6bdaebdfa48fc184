// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/binary"
	"strings"
)

const (
	headerLen = 12
	typeA     = 1
	classIN   = 1
)

// appendQuery appends a recursive query for an A record of name, without EDNS, as dnsperf
// sends it. The caller sets the ID.
func appendQuery(dst []byte, name string) []byte {
	dst = append(dst, 0, 0, 1 /* RD */, 0, 0, 1, 0, 0, 0, 0, 0, 0)
	for label := range strings.SplitSeq(name, ".") {
		dst = append(dst, byte(len(label)))
		dst = append(dst, label...)
	}
	dst = append(dst, 0)
	dst = binary.BigEndian.AppendUint16(dst, typeA)
	return binary.BigEndian.AppendUint16(dst, classIN)
}

// answered reports whether msg is a NOERROR reply with records. Other replies, however
// fast, do not count.
func answered(msg []byte) bool {
	return len(msg) >= headerLen && msg[2]&0x80 != 0 && msg[3]&0x0f == 0 && binary.BigEndian.Uint16(msg[6:]) > 0
}
