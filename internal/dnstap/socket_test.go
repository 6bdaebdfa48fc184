// SPDX-License-Identifier: Apache-2.0

package dnstap

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"sotto/forwarder/tap"
)

// capture runs fstrm_capture, which listens on a socket and writes to a file, until stop.
func capture(t *testing.T, socket, path string) (stop func()) {
	t.Helper()
	var out bytes.Buffer
	cmd := exec.Command(reader(t, "fstrm_capture", "fstrm-bin"), "-t", contentType, "-u", socket, "-w", path, "-ddddd")
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	stop = sync.OnceFunc(func() {
		_ = cmd.Process.Signal(os.Interrupt) // it may have exited
		if err := cmd.Wait(); err != nil {
			t.Logf("fstrm_capture: %v\n%s", err, &out)
		}
	})
	t.Cleanup(stop)
	return stop
}

// eventually waits for a condition, for at most ten seconds.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited too long for %s", what)
		}
	}
}

// TestSocket: an independent receiver gets the messages, those from before it started too, and
// those after it was started again.
func TestSocket(t *testing.T) {
	reader(t, "dnstap-ldns", "dnstap-ldns")
	dir := t.TempDir()
	socket, files := filepath.Join(dir, "sock"), []string{filepath.Join(dir, "1"), filepath.Join(dir, "2")}
	tp, stop := open(t, Config{Socket: socket, Client: true})
	written := func(n uint64) func() bool {
		return func() bool { s, _ := tp.SocketStats(); return s.Written == n && s.Lost == 0 }
	}
	tp.Message(message(t, tap.ClientQuery, "n0.example."))
	end := capture(t, socket, files[0])
	eventually(t, "the first message", written(1))
	tp.Message(message(t, tap.ClientQuery, "n1.example."))
	eventually(t, "the second message", written(2))
	eventually(t, "the reader to read it", func() bool { return unread(t, socket) == 0 })
	end()
	eventually(t, "the disconnection", func() bool { _, err := net.Dial("unix", socket); return err != nil })
	end = capture(t, socket, files[1])
	tp.Message(message(t, tap.ClientQuery, "n2.example."))
	eventually(t, "the third message", written(3))
	tp.Message(message(t, tap.ClientQuery, "n3.example."))
	stop()
	end()
	got := names(t, files...)
	for i := range 4 {
		if got[fmt.Sprintf("n%d.example.", i)] != 1 {
			t.Errorf("message %d: %v", i, got)
		}
	}
}

// unread returns the number of bytes that readers of a socket have not read.
func unread(t *testing.T, path string) (n int) {
	t.Helper()
	out, err := exec.Command("ss", "-Hxn").Output() // Netid State Recv-Q Send-Q Local-Address …
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(out)) {
		if f := strings.Fields(line); len(f) > 4 && f[4] == path {
			k, err := strconv.Atoi(f[2])
			if err != nil {
				t.Fatal(err)
			}
			n += k
		}
	}
	return n
}

// listener accepts one connection, completes the handshake if it is to, and does not read on.
func listener(t *testing.T, path string, accept bool) (connected <-chan net.Conn) {
	t.Helper()
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	c := make(chan net.Conn, 1)
	go func() {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		if accept {
			if _, err := readControl(conn, controlReady); err != nil {
				t.Error(err)
			}
			if _, err := conn.Write(appendControl(nil, controlAccept, true)); err != nil {
				t.Error(err)
			}
		}
		c <- conn
	}()
	return c
}

// TestStuckReceiver: a receiver that does not read, or does not even shake hands, delays
// nothing: what does not fit is lost at once, and the end comes soon. A file gets everything.
func TestStuckReceiver(t *testing.T) {
	for _, accept := range []bool{true, false} {
		dir := t.TempDir()
		conn := listener(t, filepath.Join(dir, "sock"), accept)
		tp, stop := open(t, Config{Socket: filepath.Join(dir, "sock"), File: filepath.Join(dir, "taps"), Client: true})
		c := <-conn
		m := message(t, tap.ClientQuery, "www.example.")
		sent := uint64(0)
		for s := (Stats{}); s.Lost < 1000; s, _ = tp.SocketStats() {
			tp.Message(m)
			sent++
			eventually(t, "the file", func() bool { s, _ := tp.FileStats(); return sent-s.Written < 1000 })
		}
		stop()
		c.Close()
		if s, _ := tp.FileStats(); s != (Stats{Written: sent}) {
			t.Errorf("%d messages, file %+v", sent, s)
		}
	}
}

// TestReceiverExited: messages that could not be sent at all wait for the next connection, before
// later ones. At the end they are lost.
func TestReceiverExited(t *testing.T) {
	path := filepath.Join(t.TempDir(), "sock")
	conn := listener(t, path, false)
	c, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	if err := (<-conn).Close(); err != nil {
		t.Fatal(err)
	}
	s := newSocket(&Config{Socket: path})
	s.now = &session{c, make(chan struct{})}
	close(s.now.finished)
	s.add([]byte("one "))
	s.add([]byte("two "))
	if err := s.flush(socketTimeout); err == nil {
		t.Fatal("written to a closed socket")
	}
	s.add([]byte("three"))
	if got := string(s.frames); got != "one two three" || s.count != 3 || s.stats() != (Stats{}) || len(s.wake) != 1 {
		t.Errorf("%q, %d, %+v", got, s.count, s.stats())
	}
	s.disconnect()
	if err := s.close(); err != nil || s.stats() != (Stats{Lost: 3}) {
		t.Errorf("%v, %+v", err, s.stats())
	}
	s.frames = make([]byte, maxBuffer)
	s.restore([]byte("four"), 1)
	if s.stats() != (Stats{Lost: 4}) || len(s.frames) != maxBuffer {
		t.Errorf("%+v", s.stats())
	}
}

// TestRefusal: a receiver that does not follow the protocol is a warning, with the reason.
func TestRefusal(t *testing.T) {
	for _, tc := range []struct {
		reply []byte
		want  string
	}{
		{appendControl(nil, controlAccept, false), "does not accept " + contentType},
		{appendControl(nil, controlFinish, true), "control frame 5 in place of 1"},
		{[]byte("HTTP/1.1 400 Bad Request\r\n"), "does not follow the protocol"},
		{[]byte{0, 0, 0, 0, 0, 0, 0, 8, 0, 0, 0, 1, 1, 2, 3, 4}, "does not follow the protocol"},
	} {
		a, b := net.Pipe()
		go func() {
			_, _ = readControl(b, controlReady)
			_, _ = b.Write(tc.reply)
			_, _ = io.Copy(io.Discard, b)
		}()
		if err := handshake(a); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%q: %v, want %s", tc.reply, err, tc.want)
		}
		a.Close()
		b.Close()
	}
}
