// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"bytes"
	"testing"
)

func TestAppendFrame(t *testing.T) {
	long := make([]byte, MaxMessage)
	for _, tc := range []struct{ msg, header []byte }{
		{[]byte{1, 2, 3}, []byte{0, 3}},
		{make([]byte, 300), []byte{1, 44}},
		{long, []byte{0xff, 0xff}},
	} {
		got := AppendFrame([]byte{9}, tc.msg)
		if want := append(append([]byte{9}, tc.header...), tc.msg...); !bytes.Equal(got, want) {
			t.Errorf("%d bytes: the frame starts with %x, want %x", len(tc.msg), got[:4], want[:4])
		}
	}
}
