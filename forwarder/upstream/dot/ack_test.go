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

// TestAcker: a server that does not disable Nagle's algorithm does not wait for an
// acknowledgement. It sends two replies with a pause between them; the second is sent only
// when the first was acknowledged, which the kernel would delay by up to 40 ms.
func TestAcker(t *testing.T) {
	l, err := net.ListenTCP("tcp", &net.TCPAddr{IP: servertest.Loopback.AsSlice()})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	const rounds = 40
	go func() {
		for {
			c, err := l.AcceptTCP()
			if err != nil {
				return
			}
			go nagle(c)
		}
	}()
	// total returns how long all rounds take with the reader that wrap returns.
	total := func(wrap func(*net.TCPConn) io.Reader) time.Duration {
		c, err := net.DialTCP("tcp", nil, l.Addr().(*net.TCPAddr))
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		_ = c.SetDeadline(time.Now().Add(20 * time.Second))
		r := wrap(c)
		var b [2]byte
		started := time.Now()
		for range rounds {
			if _, err := c.Write(b[:1]); err != nil {
				t.Fatal(err)
			}
			if _, err := io.ReadFull(r, b[:]); err != nil {
				t.Fatal(err)
			}
		}
		return time.Since(started)
	}
	acked := total(func(c *net.TCPConn) io.Reader {
		a, err := newAcker(c)
		if err != nil {
			t.Fatal(err)
		}
		return a
	})
	plain := total(func(c *net.TCPConn) io.Reader { return c })
	if acked > plain/2 {
		t.Errorf("a round takes %v, and %v with a plain reader: the replies wait for acknowledgements", acked/rounds, plain/rounds)
	}
}

// nagle answers each byte with two, a moment apart, with Nagle's algorithm enabled.
func nagle(c *net.TCPConn) {
	defer c.Close()
	_ = c.SetNoDelay(false)
	var b [1]byte
	for {
		if _, err := io.ReadFull(c, b[:]); err != nil {
			return
		}
		for range 2 {
			if _, err := c.Write(b[:]); err != nil {
				return
			}
			time.Sleep(time.Millisecond)
		}
	}
}

// TestAckerErrors: EOF and deadlines work as on a net.TCPConn.
func TestAckerErrors(t *testing.T) {
	l, err := net.ListenTCP("tcp", &net.TCPAddr{IP: servertest.Loopback.AsSlice()})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c, err := net.DialTCP("tcp", nil, l.Addr().(*net.TCPAddr))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	peer, err := l.AcceptTCP()
	if err != nil {
		t.Fatal(err)
	}
	a, err := newAcker(c)
	if err != nil {
		t.Fatal(err)
	}
	_ = c.SetReadDeadline(time.Now().Add(10 * time.Millisecond))
	b := make([]byte, 8)
	if _, err := a.Read(b); !transport.IsTimeout(err) {
		t.Errorf("after the deadline: %v", err)
	}
	_ = c.SetReadDeadline(time.Time{})
	if _, err := peer.Write([]byte("abc")); err != nil {
		t.Fatal(err)
	}
	if n, err := io.ReadFull(a, b[:3]); n != 3 || err != nil {
		t.Errorf("read %q, %v", b[:n], err)
	}
	peer.Close()
	if _, err := a.Read(b); err != io.EOF {
		t.Errorf("after EOF: %v, want %v", err, io.EOF)
	}
	c.Close()
	if _, err := a.Read(b); err == nil || err == io.EOF {
		t.Errorf("after closing: %v", err)
	}
}
