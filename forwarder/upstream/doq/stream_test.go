// SPDX-License-Identifier: Apache-2.0

package doq

import (
	"bytes"
	"errors"
	"io"
	"testing"

	"sotto/forwarder/upstream/streams"
	"sotto/internal/dnstest"
)

// pieces is a stream that returns at most n bytes at a time, and FIN with the last of them or
// after it.
type pieces struct {
	rest    []byte
	n       int
	withEnd bool
}

func (p *pieces) Read(b []byte) (int, error) {
	n := copy(b, p.rest[:min(p.n, len(p.rest))])
	p.rest = p.rest[n:]
	if len(p.rest) == 0 && (n == 0 || p.withEnd) {
		return n, io.EOF
	}
	return n, nil
}

func (p *pieces) Write(b []byte) (int, error) { return len(b), nil }
func (p *pieces) Close() error                { return nil }

// FuzzReceive: however the bytes of a stream arrive, they are one message, or an error of the
// right kind.
func FuzzReceive(f *testing.F) {
	f.Add(dnstest.Frame([]byte("message")), 1, true)
	f.Add(dnstest.Frame(make([]byte, 65535)), 1200, false)
	f.Add(append(dnstest.Frame([]byte("message")), 0), 3, true)
	f.Add(dnstest.Frame([]byte("message"))[:5], 3, false)
	f.Add([]byte{}, 1, true)
	f.Add([]byte{0, 0}, 2, false)
	f.Fuzz(func(t *testing.T, raw []byte, n int, withEnd bool) {
		size := -1
		if len(raw) >= 2 {
			size = int(raw[0])<<8 | int(raw[1])
		}
		msg, ended, err := receive(&pieces{rest: raw, n: max(n, 1), withEnd: withEnd})
		var violation *violationError
		switch {
		case len(raw) == 0:
			if !errors.Is(err, streams.ErrReset) {
				t.Errorf("an empty stream: %v", err)
			}
		case size < 0 || len(raw)-2 < size:
			if !errors.As(err, &violation) {
				t.Errorf("%d bytes of a message of %d: %v", len(raw)-2, size, err)
			}
		case err != nil:
			if len(raw)-2 == size || err != errSecond {
				t.Errorf("%d bytes of a message of %d: %v", len(raw)-2, size, err)
			}
		case !bytes.Equal(msg, raw[2:2+size]):
			t.Errorf("the message is %x", msg)
		case ended && len(raw)-2 > size:
			t.Error("ended before the end")
		}
	})
}
