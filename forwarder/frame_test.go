// SPDX-License-Identifier: Apache-2.0

package forwarder

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"io"
	"slices"
	"testing"
	"testing/iotest"

	"sotto/forwarder/wire"
)

// FuzzReadFrame: a stream is split into its frames regardless of TCP segments. Of an
// incomplete frame every byte is returned, for a handover to the successor. A length field
// alone does not allocate its length.
func FuzzReadFrame(f *testing.F) {
	frame := func(n int) []byte {
		return wire.AppendFrame(nil, bytes.Repeat([]byte{7}, n))
	}
	f.Add(frame(12), uint8(1))
	f.Add(slices.Concat(frame(30), frame(40), frame(12)), uint8(0))
	f.Add(frame(600), uint8(3))
	f.Add(frame(65535), uint8(0))
	f.Add(frame(65535)[:700], uint8(2))
	f.Add(frame(11), uint8(0))
	f.Add([]byte{0, 0, 0, 0}, uint8(0))
	f.Add([]byte{0xff}, uint8(1))
	f.Fuzz(func(t *testing.T, sent []byte, cut uint8) {
		var from io.Reader = bytes.NewReader(sent)
		switch cut % 4 {
		case 1:
			from = iotest.OneByteReader(from)
		case 2:
			from = iotest.HalfReader(from)
		case 3:
			from = iotest.DataErrReader(from)
		}
		r := bufio.NewReaderSize(from, readBuffer)
		rest := sent
		for {
			got, err := readFrame(r)
			if cap(got) > max(2*firstRead, 4*len(got)) {
				t.Fatalf("a buffer of %d bytes for %d that arrived", cap(got), len(got))
			}
			if !bytes.HasPrefix(rest, got) {
				t.Fatalf("got %x of %x", got, rest)
			}
			rest = rest[len(got):]
			size := -1
			if len(got) >= 2 {
				size = int(binary.BigEndian.Uint16(got))
			}
			whole := size >= wire.HeaderLen && len(got) == 2+size
			if whole != (err == nil) {
				t.Fatalf("%d bytes of a frame with length %d: %v", len(got), size, err)
			}
			if err == nil {
				continue
			}
			if tooShort := size >= 0 && size < wire.HeaderLen; !tooShort && len(rest) > 0 {
				t.Fatalf("ended with %v before %x", err, rest)
			}
			return
		}
	})
}
