// SPDX-License-Identifier: Apache-2.0

package config

import (
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	"sotto/internal/netlab/labtest"

	"golang.org/x/sys/unix"
)

// TestHungWriter: reading fails if a process has the pipe open but stops writing.
func TestHungWriter(t *testing.T) {
	path := labtest.FIFO(t)
	w, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	for _, text := range []string{"", "the first part"} {
		s, err := openStream(path, maxConfig)
		if err != nil {
			t.Fatal(err)
		}
		s.readTimeout = 50 * time.Millisecond
		if _, err := w.WriteString(text); err != nil {
			t.Fatal(err)
		}
		labtest.MustReturn(t, "a writer that hangs", func() {
			if got, err := s.read(); err == nil || !strings.Contains(err.Error(), "no data for 50ms") {
				t.Errorf("after %q: %q, %v", text, got, err)
			}
		})
		if err := unix.Close(s.fd); err != nil {
			t.Error(err)
		}
	}
}

// TestSlowWriter: data that arrives late and in parts is read completely.
func TestSlowWriter(t *testing.T) {
	path := labtest.FIFO(t)
	wrote := make(chan error, 1)
	go func() {
		time.Sleep(100 * time.Millisecond) // the reader waits for a writer
		w, err := os.OpenFile(path, os.O_WRONLY, 0)
		if err != nil {
			wrote <- err
			return
		}
		for range 3 {
			time.Sleep(50 * time.Millisecond) // the reader waits for bytes
			_, werr := w.WriteString(strings.Repeat("x", 100<<10))
			err = errors.Join(err, werr)
		}
		wrote <- errors.Join(err, w.Close())
	}()
	labtest.MustReturn(t, "a slow writer", func() {
		if got, err := ReadFile(path); err != nil || len(got) != 300<<10 {
			t.Errorf("read %d bytes, %v", len(got), err)
		}
	})
	if t.Failed() {
		return // the writer may wait for a reader
	}
	if err := <-wrote; err != nil {
		t.Error(err)
	}
}
