// SPDX-License-Identifier: Apache-2.0

package dot

import (
	"io"
	"net"
	"testing"
	"time"

	"sotto/forwarder/upstream/servertest"
	"sotto/forwarder/upstream/transport"
)

// TestWriteAfterDeadline: what crypto/tls writes itself, such as the answer to a KeyUpdate, is
// written although the deadline of the latest queries has passed.
func TestWriteAfterDeadline(t *testing.T) {
	l, err := net.ListenTCP("tcp", &net.TCPAddr{IP: servertest.Loopback.AsSlice()})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	socket, err := net.DialTCP("tcp", nil, l.Addr().(*net.TCPAddr))
	if err != nil {
		t.Fatal(err)
	}
	defer socket.Close()
	peer, err := l.AcceptTCP()
	if err != nil {
		t.Fatal(err)
	}
	defer peer.Close()
	raw, err := newGather(socket)
	if err != nil {
		t.Fatal(err)
	}
	cfg := &transport.Config{SilentTimeout: time.Minute, MaxAge: maxAge, MaxInflight: 1}
	c := newConn(cfg, nil, raw.(*gather), &counters{}, func(*conn) {})
	if err := raw.SetWriteDeadline(time.Unix(1, 0)); err != nil {
		t.Fatal(err)
	}
	if _, err := c.raw.Write([]byte("abc")); err != nil {
		t.Fatalf("write: %v", err)
	}
	got := make([]byte, 3)
	if _, err := io.ReadFull(peer, got); err != nil || string(got) != "abc" {
		t.Errorf("the server received %q, %v", got, err)
	}
}
