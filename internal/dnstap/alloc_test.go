// SPDX-License-Identifier: Apache-2.0

//go:build !race

package dnstap

import (
	"path/filepath"
	"testing"

	"sotto/forwarder/tap"
)

func TestMessageAllocates(t *testing.T) {
	tp, err := Open(Config{File: filepath.Join(t.TempDir(), "taps"), Client: true, WorkloadName: func(string) string { return "docker:web" }})
	if err != nil {
		t.Fatal(err)
	}
	m := message(t, tap.ClientQuery, "www.example.")
	tp.file.buffer.frames = make([]byte, 0, maxBuffer)
	if n := testing.AllocsPerRun(1000, func() { tp.Message(m) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
	if err := tp.Close(); err != nil {
		t.Fatal(err)
	}
}
