// SPDX-License-Identifier: Apache-2.0

package wire

import "encoding/binary"

// FrameHeaderLen is the length of the field that precedes each message on a stream.
const FrameHeaderLen = 2

// AppendFrame appends msg preceded by its length, as messages are sent over TCP and
// TLS (RFC 1035 §4.2.2, RFC 7858 §3.3). msg has at most [MaxMessage] bytes.
func AppendFrame(dst, msg []byte) []byte {
	dst = binary.BigEndian.AppendUint16(dst, uint16(len(msg)))
	return append(dst, msg...)
}
