// SPDX-License-Identifier: Apache-2.0

package control

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

func listen(t *testing.T, path string) *Listener {
	t.Helper()
	l, err := Listen(t.Context(), path, 0)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// serve serves on path until the function that it returns is called.
func serve(t *testing.T, path string, reload func(context.Context) error) (stop func()) {
	t.Helper()
	l := listen(t, path)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- l.Serve(ctx, Handlers{Reload: reload}) }()
	return func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("serve: %v", err)
		}
	}
}

// TestReload: the client gets the result of the reload.
func TestReload(t *testing.T) {
	path := filepath.Join(t.TempDir(), "new", "control.sock")
	var asked atomic.Int64
	var answer atomic.Pointer[error]
	stop := serve(t, path, func(context.Context) error {
		asked.Add(1)
		if err := answer.Load(); err != nil {
			return *err
		}
		return nil
	})
	for path, want := range map[string]os.FileMode{path: os.ModeSocket | 0o600, filepath.Dir(path): os.ModeDir | 0o700} {
		if info, err := os.Lstat(path); err != nil || info.Mode() != want {
			t.Errorf("%s: %v, %v: want mode %v", path, info.Mode(), err, want)
		}
	}
	if err := Reload(t.Context(), path); err != nil || asked.Load() != 1 {
		t.Errorf("%v, asked %d times", err, asked.Load())
	}
	wrong := errors.New("sotto.toml:3:1: invalid value: fix it")
	answer.Store(&wrong)
	if err := Reload(t.Context(), path); err == nil || err.Error() != wrong.Error() || asked.Load() != 2 {
		t.Errorf("%v, asked %d times: want %v", err, asked.Load(), wrong)
	}
	stop()
	if _, err := os.Lstat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("after a clean stop: %v", err)
	}
	if err := Reload(t.Context(), path); !errors.Is(err, ErrNotRunning) || !strings.Contains(err.Error(), path) {
		t.Errorf("without a listener: %v", err)
	}
}

// TestReloadOnly: other requests are rejected.
func TestReloadOnly(t *testing.T) {
	path := filepath.Join(t.TempDir(), "control.sock")
	defer serve(t, path, func(context.Context) error { t.Error("reloaded"); return nil })()
	for request, want := range map[string]string{
		"GET /reload HTTP/1.0\r\n\r\n":   "405",
		"POST / HTTP/1.0\r\n\r\n":        "404",
		"POST /reload\r\n\r\n":           "400",
		"\x00\x01\r\n\r\n":               "400",
		"POST /reloads HTTP/1.0\r\n\r\n": "404",
	} {
		c, err := net.Dial("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		_ = c.SetDeadline(time.Now().Add(10 * time.Second))
		if _, err := c.Write([]byte(request)); err != nil {
			t.Error(err)
		}
		buf := make([]byte, 64)
		n, err := c.Read(buf)
		if _, status, _ := strings.Cut(string(buf[:n]), " "); !strings.HasPrefix(status, want) {
			t.Errorf("%q: %q, %v: want status %s", request, buf[:n], err, want)
		}
		c.Close()
	}
}

// TestListenExisting: Listen replaces the socket of a dead process, but neither one that a
// process listens on nor another kind of file.
func TestListenExisting(t *testing.T) {
	path := filepath.Join(t.TempDir(), "control.sock")
	dead := listen(t, path)
	if err := dead.l.Close(); err != nil { // as after a kill: the path stays
		t.Fatal(err)
	}
	if _, err := os.Lstat(path); err != nil {
		t.Fatal(err)
	}
	alive := listen(t, path)
	if _, err := Listen(t.Context(), path, 0); err == nil || !errors.Is(err, errInUse) || !strings.Contains(err.Error(), path) {
		t.Errorf("with a running process: %v", err)
	}
	if err := dead.Close(); err != nil {
		t.Errorf("close the dead listener: %v", err)
	}
	if _, err := os.Lstat(path); err != nil {
		t.Errorf("closing the dead listener removed the other one's socket: %v", err)
	}
	if err := errors.Join(alive.Close(), alive.Close(), Remove(path)); err != nil {
		t.Error(err)
	}
	if _, err := os.Lstat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("after Close: %v", err)
	}
	if err := os.WriteFile(path, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Listen(t.Context(), path, 0); err == nil || !strings.Contains(err.Error(), "is not a socket") {
		t.Errorf("over a file: %v", err)
	}
	if text, err := os.ReadFile(path); err != nil || string(text) != "precious" {
		t.Errorf("the file was changed: %q, %v", text, err)
	}
	long := filepath.Join(t.TempDir(), strings.Repeat("x", maxPath))
	if _, err := Listen(t.Context(), long, 0); err == nil || !strings.Contains(err.Error(), "shorter") {
		t.Errorf("a long path: %v", err)
	}
}

// TestStopDuringReload: a reload that does not return does not prevent a stop, and its
// context is canceled.
func TestStopDuringReload(t *testing.T) {
	path := filepath.Join(t.TempDir(), "control.sock")
	started, canceled := make(chan struct{}), make(chan struct{})
	stop := serve(t, path, func(ctx context.Context) error {
		close(started)
		<-ctx.Done()
		close(canceled)
		return ctx.Err()
	})
	result := make(chan error, 1)
	go func() { result <- Reload(t.Context(), path) }()
	<-started
	stop()
	if err := <-result; err == nil {
		t.Error("a reload that did not happen succeeded")
	}
	<-canceled
}

// TestReplace: the client gets the connection, or the reason of the refusal.
func TestReplace(t *testing.T) {
	path := filepath.Join(t.TempDir(), "control.sock")
	if _, err := Replace(t.Context(), path, nil); !errors.Is(err, ErrNotRunning) {
		t.Errorf("without a listener: %v", err)
	}
	stop := serve(t, path, func(context.Context) error { return nil })
	if _, err := Replace(t.Context(), path, nil); !errors.Is(err, ErrTooOld) {
		t.Errorf("without a handler: %v", err)
	}
	stop()

	l := listen(t, path)
	ctx, cancel := context.WithCancel(t.Context())
	taken := make(chan *net.UnixConn, 1)
	done := make(chan error, 1)
	go func() {
		done <- l.Serve(ctx, Handlers{Reload: func(context.Context) error { return nil }, Replace: func(terms []byte) (func(*net.UnixConn), error) {
			switch string(terms) {
			case "good terms":
			case "later":
				return nil, fmt.Errorf("%w: it is stopping", ErrBusy)
			default:
				return nil, errors.New("prefix4 differs")
			}
			return func(c *net.UnixConn) { taken <- c }, nil
		}})
	}()
	if _, err := Replace(t.Context(), path, []byte("others")); err == nil || !strings.Contains(err.Error(), "prefix4 differs") {
		t.Errorf("with other terms: %v", err)
	}
	if _, err := Replace(t.Context(), path, []byte("later")); !errors.Is(err, ErrBusy) || err.Error() != ErrBusy.Error()+": it is stopping" {
		t.Errorf("while busy: %v", err)
	}
	c, err := Replace(t.Context(), path, []byte("good terms"))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	other := <-taken
	defer other.Close()
	cancel() // closes the listener, but not the connection
	if err := <-done; err != nil {
		t.Errorf("serve: %v", err)
	}
	if _, err := c.Write([]byte("hello")); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 16)
	if n, err := other.Read(buf); err != nil || string(buf[:n]) != "hello" {
		t.Errorf("read %q, %v", buf[:n], err)
	}
}

// TestReplaceNoResponse: a process that exits before it responds counts as not running, and
// the client can cancel.
func TestReplaceNoResponse(t *testing.T) {
	path := filepath.Join(t.TempDir(), "control.sock")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	asked := make(chan net.Conn)
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			// One byte shows that a request was sent.
			if _, err := c.Read(make([]byte, 1)); err != nil {
				t.Error(err)
			}
			asked <- c
		}
	}()
	// The limit is well below the timeout of Replace.
	answer := func(got <-chan error) error {
		t.Helper()
		select {
		case err := <-got:
			return err
		case <-time.After(30 * time.Second):
			t.Fatal("Replace waits for a response")
			return nil
		}
	}
	ask := func(ctx context.Context) <-chan error {
		got := make(chan error, 1)
		go func() { _, err := Replace(ctx, path, []byte("terms")); got <- err }()
		return got
	}
	got := ask(t.Context())
	_ = (<-asked).Close()
	if err := answer(got); !errors.Is(err, ErrNotRunning) || !strings.Contains(err.Error(), path) {
		t.Errorf("exit: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	got = ask(ctx)
	c := <-asked
	defer c.Close()
	cancel()
	if err := answer(got); !errors.Is(err, context.Canceled) {
		t.Errorf("canceled: %v", err)
	}
	// The context may be canceled before the call.
	if err := answer(ask(ctx)); !errors.Is(err, context.Canceled) {
		t.Errorf("canceled before the call: %v", err)
	}
}
