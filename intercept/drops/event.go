// SPDX-License-Identifier: Apache-2.0

package drops

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net/netip"
)

const (
	headLen   = 72  // of struct drop in bpf/drops.h
	dropBytes = 512 // DROP_BYTES

	flagPassed = 1 // DROP_PASSED
	flagHook   = 2 // DROP_HOOK
)

// Event is a query that the kernel half refused or dropped.
type Event struct {
	Time   uint64 // nanoseconds of bpf_ktime_get_ns
	Cgroup uint64 // of the socket or process; 0: unknown
	PID    uint32 // in the initial PID namespace; 0: the process is unknown
	UID    uint32
	Comm   string
	Reason uint32 // index of the counter of the reason
	Passed bool   // the guard only counts: the packet was not dropped
	Hook   bool   // refused by a hook on sockets: there is no packet, only Dst and Protocol

	Packet
}

// Decode decodes a record of the ring buffer.
func Decode(b []byte) (Event, error) {
	if len(b) < headLen {
		return Event{}, fmt.Errorf("decode an event: %d bytes, want %d or more", len(b), headLen)
	}
	n := binary.NativeEndian
	flags, size := n.Uint32(b[64:]), int(n.Uint32(b[68:]))
	if size > min(dropBytes, len(b)-headLen) {
		return Event{}, fmt.Errorf("decode an event: a packet of %d bytes in %d", size, len(b))
	}
	name, _, _ := bytes.Cut(b[24:40], []byte{0})
	e := Event{
		Time: n.Uint64(b), Cgroup: n.Uint64(b[8:]), PID: n.Uint32(b[16:]), UID: n.Uint32(b[20:]), Comm: string(name),
		Reason: n.Uint32(b[60:]), Passed: flags&flagPassed != 0, Hook: flags&flagHook != 0,
	}
	if e.Hook {
		e.Dst = netip.AddrPortFrom(netip.AddrFrom16([16]byte(b[40:56])).Unmap(), binary.BigEndian.Uint16(b[56:]))
		e.Protocol = n.Uint16(b[58:])
		return e, nil
	}
	e.Packet = Parse(b[headLen : headLen+size])
	return e, nil
}
