// SPDX-License-Identifier: Apache-2.0

package hits

import (
	"encoding/binary"
	"fmt"
	"net/netip"
)

// Event is one reply of the kernel.
type Event struct {
	Time   uint64 // CLOCK_MONOTONIC in nanoseconds, when the query was seen
	Took   uint64 // nanoseconds until the reply was ready
	Slot   uint32
	IPv6   bool           // the query was for the IPv6 address of the slot
	Client netip.AddrPort // as the interface of the listener sees it
	ID     uint16
	Type   uint16
	Class  uint16
	Rcode  uint8
	Name   []byte // in wire form, as the client sent it
}

// Offsets in struct hit_event in bpf/hits.h.
const (
	atTook    = 8
	atClient  = 16
	atSlot    = 32
	atPort    = 36
	atID      = 38
	atType    = 40
	atClass   = 42
	atNameLen = 44
	atRcode   = 46
	atIs6     = 47
	atName    = 48
	eventLen  = atName + MaxName + 1
)

// Decode reads an event. Its name is a copy.
func Decode(b []byte) (e Event, err error) {
	if len(b) < eventLen {
		return e, fmt.Errorf("read an answer of the kernel: %d bytes instead of %d", len(b), eventLen)
	}
	n := binary.NativeEndian.Uint16(b[atNameLen:])
	if n > MaxName {
		return e, fmt.Errorf("read an answer of the kernel: a name of %d bytes", n)
	}
	addr := netip.AddrFrom16([16]byte(b[atClient:])).Unmap()
	return Event{
		Time: binary.NativeEndian.Uint64(b), Took: binary.NativeEndian.Uint64(b[atTook:]),
		Slot: binary.NativeEndian.Uint32(b[atSlot:]), IPv6: b[atIs6] != 0,
		Client: netip.AddrPortFrom(addr, binary.BigEndian.Uint16(b[atPort:])), ID: binary.BigEndian.Uint16(b[atID:]),
		Type: binary.BigEndian.Uint16(b[atType:]), Class: binary.BigEndian.Uint16(b[atClass:]), Rcode: b[atRcode],
		Name: append([]byte(nil), b[atName:atName+int(n)]...),
	}, nil
}
