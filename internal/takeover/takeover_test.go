// SPDX-License-Identifier: Apache-2.0

package takeover

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"testing"
	"time"
)

// TestWireFormat: the bytes of a message and of the terms stay the same, so that other
// versions understand them.
func TestWireFormat(t *testing.T) {
	a, b := pair(t)
	if err := a.Send(MsgConn, []byte("read")); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, 12)
	if _, err := io.ReadFull(b.c, got); err != nil || !bytes.Equal(got, []byte("c\x00\x00\x00\x00\x00\x00\x04read")) {
		t.Errorf("a message is %q, %v", got, err)
	}
	text, err := json.Marshal(Terms{Prefix4: "198.19.0.0/16", Prefix6: "fd00::/64", Cgroups: []string{"/a"}, Version: 1, Identity: "/b", Back: true})
	if want := `{"prefix4":"198.19.0.0/16","prefix6":"fd00::/64","cgroups":["/a"],"version":1,"identity":"/b","back":true}`; err != nil || string(text) != want {
		t.Errorf("the terms are %s, %v; want %s", text, err, want)
	}
	if kinds := string([]byte{MsgReady, MsgSockets, MsgTake, MsgConn, MsgDone, MsgRefused, MsgReplaced, MsgTaken}); kinds != "rstcdnik" {
		t.Errorf("the kinds are %q", kinds)
	}
}

// TestTakeover: both sides of the protocol, from the sockets to the last connection, with a
// successor that has a version and with one that does not.
func TestTakeover(t *testing.T) {
	for _, version := range []int{0, Version} {
		a, b := pair(t)
		p, s := &Predecessor{conn: a}, &Successor{conn: b, version: version}
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		defer w.Close()
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		client, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer client.Close()
		served, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		done := make(chan error, 1)
		go func() {
			err := s.Offer(t.Context(), []string{"/a"}, []int{int(r.Fd())}, []int{int(w.Fd()), int(w.Fd())})
			if err == nil {
				err = errors.Join(s.Give(served.(*net.TCPConn), []byte("read")), served.Close())
			}
			done <- errors.Join(err, s.Done())
		}()
		if err := p.receiveSockets(); err != nil || len(p.UDP) != 1 || len(p.TCP) != 2 || len(p.replaced) != min(version, 1) {
			t.Fatalf("version %d: %v and %v sockets, replaced %v: %v", version, p.UDP, p.TCP, p.replaced, err)
		}
		closeAll(p.UDP)
		closeAll(p.TCP)
		owned := false
		conns := 0
		err = p.Take(t.Context(), func() { owned = true }, func(c *net.TCPConn, read []byte) error {
			conns++
			if string(read) != "read" {
				t.Errorf("read %q", read)
			}
			_, err := c.Write([]byte("from the successor"))
			return errors.Join(err, c.Close())
		}, slog.New(slog.DiscardHandler))
		if err != nil || !owned || conns != 1 {
			t.Errorf("version %d: owned %v, %d connections, %v", version, owned, conns, err)
		}
		if err := <-done; err != nil {
			t.Errorf("version %d: %v", version, err)
		}
		_ = client.SetReadDeadline(time.Now().Add(10 * time.Second))
		if text, err := io.ReadAll(client); err != nil || string(text) != "from the successor" {
			t.Errorf("version %d: the client read %q, %v", version, text, err)
		}
	}
}

// TestRefuse: a successor that is too late does not take over.
func TestRefuse(t *testing.T) {
	a, b := pair(t)
	p, s := &Predecessor{conn: a}, &Successor{conn: b, version: Version}
	s.Refuse()
	if err := p.receiveSockets(); !errors.Is(err, ErrTooLate) {
		t.Errorf("before the sockets: %v", err)
	}
	a, b = pair(t)
	p, s = &Predecessor{conn: a}, &Successor{conn: b, version: Version}
	s.Refuse()
	err := p.Take(t.Context(), func() { t.Error("it owns the seal") }, nil, slog.New(slog.DiscardHandler))
	if !errors.Is(err, ErrTooLate) {
		t.Errorf("after the sockets: %v", err)
	}
}
