// SPDX-License-Identifier: Apache-2.0

package drops

import (
	"context"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"

	"sotto/internal/netlab/labtest"
)

// TestStop: a reader that is stopped directly after an event, as at the end of a trace. With -race
// this also covers what Run reads while another goroutine closes the ring buffer.
func TestStop(t *testing.T) {
	labtest.NeedRoot(t)
	events, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.RingBuf, MaxEntries: 4096})
	if err != nil {
		t.Fatal(err)
	}
	defer events.Close()
	send := sender(t, events)
	for range 20 {
		ctx, cancel := context.WithCancel(t.Context())
		handled, ended := make(chan Event), make(chan error)
		r := &Reader{Events: events, Lost: func() (uint64, error) { return 0, nil }, Handle: func(e Event, _ uint64) { handled <- e }}
		go func() { ended <- r.Run(ctx) }()
		if _, err := send.Run(&ebpf.RunOptions{Data: make([]byte, 64)}); err != nil {
			t.Fatal(err)
		}
		if e := <-handled; e.Reason != 7 {
			t.Errorf("%+v", e)
		}
		cancel()
		if err := <-ended; err != nil {
			t.Fatal(err)
		}
	}
}

// sender returns a program that writes an event without a packet, whose reason is 7.
func sender(t *testing.T, events *ebpf.Map) *ebpf.Program {
	t.Helper()
	code := asm.Instructions{asm.Mov.Imm(asm.R1, 0)}
	for at := int16(-headLen); at < 0; at += 8 {
		code = append(code, asm.StoreMem(asm.RFP, at, asm.R1, asm.DWord))
	}
	code = append(code,
		asm.StoreImm(asm.RFP, 60-headLen, 7, asm.Word),
		asm.LoadMapPtr(asm.R1, events.FD()),
		asm.Mov.Reg(asm.R2, asm.RFP), asm.Add.Imm(asm.R2, -headLen),
		asm.Mov.Imm(asm.R3, headLen), asm.Mov.Imm(asm.R4, 0),
		asm.FnRingbufOutput.Call(),
		asm.Mov.Imm(asm.R0, 0), asm.Return(),
	)
	p, err := ebpf.NewProgram(&ebpf.ProgramSpec{Type: ebpf.SocketFilter, License: "GPL", Instructions: code})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.Close() })
	return p
}
