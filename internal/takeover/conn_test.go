// SPDX-License-Identifier: Apache-2.0

package takeover

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

// pair returns both ends of a connection.
func pair(t *testing.T) (a, b *Conn) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	var ends [2]*Conn
	for i, fd := range fds {
		f := os.NewFile(uintptr(fd), "end")
		c, err := net.FileConn(f)
		if err != nil {
			t.Fatal(err)
		}
		_ = f.Close()
		ends[i] = NewConn(c.(*net.UnixConn))
		t.Cleanup(func() { _ = ends[i].Close() })
	}
	return ends[0], ends[1]
}

func TestConn(t *testing.T) {
	a, b := pair(t)
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	large := bytes.Repeat([]byte("large"), 1<<16)
	sent := make(chan error, 1)
	go func() {
		sent <- errors.Join(a.Send(1, []byte("first")), a.Send(2, nil, int(w.Fd()), int(w.Fd())), a.Send(3, large, int(w.Fd())), a.Send(4, []byte("last")))
	}()
	for _, want := range []struct {
		kind  byte
		data  []byte
		files int
	}{{1, []byte("first"), 0}, {2, nil, 2}, {3, large, 1}, {4, []byte("last"), 0}} {
		kind, data, files, err := b.Receive()
		if err != nil || kind != want.kind || !bytes.Equal(data, want.data) || len(files) != want.files {
			t.Fatalf("got kind %d with %d bytes and %d files, %v; want %d, %d, %d", kind, len(data), len(files), err, want.kind, len(want.data), want.files)
		}
		for _, f := range files {
			if _, err := f.Write([]byte{kind}); err != nil {
				t.Error(err)
			}
			_ = f.Close()
		}
	}
	if err := <-sent; err != nil {
		t.Fatal(err)
	}
	_ = w.Close() // the last of them
	if got, err := io.ReadAll(r); err != nil || !bytes.Equal(got, []byte{2, 2, 3}) {
		t.Errorf("wrong files: %v, %v", got, err)
	}
	_ = a.Close()
	if _, _, _, err := b.Receive(); !errors.Is(err, io.EOF) {
		t.Errorf("after Close: %v", err)
	}
}

func TestConnInvalid(t *testing.T) {
	for name, raw := range map[string][]byte{
		"a short header":             {1, 0, 0},
		"a short message":            {1, 0, 0, 0, 0, 0, 0, 9, 'x'},
		"a length that is too large": {1, 0, 0, 0, 0xff, 0xff, 0xff, 0xff},
	} {
		a, b := pair(t)
		if _, err := a.c.Write(raw); err != nil {
			t.Fatal(err)
		}
		_ = a.Close()
		if kind, data, _, err := b.Receive(); err == nil || errors.Is(err, io.EOF) {
			t.Errorf("%s: kind %d, %q, %v", name, kind, data, err)
		}
	}
	a, _ := pair(t)
	if err := a.Send(1, make([]byte, maxData+1)); err == nil {
		t.Error("sent a message that is too long")
	}
}

// TestReceiveAfterFailedSend: messages that were sent before the other side closed the
// connection are received, even after a send has failed.
func TestReceiveAfterFailedSend(t *testing.T) {
	a, b := pair(t)
	if err := a.Send(7, []byte("no")); err != nil {
		t.Fatal(err)
	}
	_ = a.Close()
	if err := b.Send(1, nil); !errors.Is(err, unix.EPIPE) {
		t.Errorf("send on a closed connection: %v", err)
	}
	if kind, data, _, err := b.Receive(); err != nil || kind != 7 || string(data) != "no" {
		t.Errorf("got kind %d, %q, %v", kind, data, err)
	}
	if _, _, _, err := b.Receive(); !errors.Is(err, io.EOF) {
		t.Errorf("after it: %v", err)
	}
}
