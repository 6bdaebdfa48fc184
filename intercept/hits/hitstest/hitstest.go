// SPDX-License-Identifier: Apache-2.0

// Package hitstest runs the program of package hits on packets, without an interface. It is for
// tests, and needs root.
package hitstest

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/rlimit"
	"golang.org/x/sys/unix"

	"sotto/intercept/hits"
	"sotto/intercept/pins"
	"sotto/intercept/references"
)

// Slots is the number of addresses of a prefix.
const Slots = 16

// MAC addresses of the interface of the host, and of the listener's.
var Host, Inner = [6]byte{2, 0, 0, 0, 0, 1}, [6]byte{2, 0, 0, 0, 0, 2}

// Machine is a table with slots that the test defines.
type Machine struct {
	*hits.Table
	t       testing.TB
	origins *ebpf.Map
	daemon  *ebpf.Map
	evicted []string
}

// Evicted returns the tags of the answers that were removed for others.
func (m *Machine) Evicted() []string { return m.evicted }

// Virtual4 and Virtual6 return the addresses of a slot.
func Virtual4(slot byte) netip.Addr { return netip.AddrFrom4([4]byte{198, 19, 0, slot}) }

// Virtual6 is described at Virtual4.
func Virtual6(slot byte) netip.Addr {
	return netip.AddrFrom16([16]byte{0: 0xfd, 1: 0x73, 15: slot})
}

// New loads the program, and starts its table.
func New(t testing.TB, entries int) *Machine {
	t.Helper()
	if err := rlimit.RemoveMemlock(); err != nil {
		t.Fatal(err)
	}
	m := &Machine{t: t}
	var err error
	flags := uint32(1 << 10) // BPF_F_MMAPABLE
	m.origins, err = ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.Array, KeySize: 4, ValueSize: 40, MaxEntries: Slots, Flags: flags})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = m.origins.Close() })
	m.daemon, err = ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.Array, KeySize: 4, ValueSize: 24, MaxEntries: 1})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = m.daemon.Close() })
	p6 := Virtual6(0).As16()
	prefixes := references.Prefixes{Base4: binary.BigEndian.Uint32([]byte{198, 19, 0, 0}), Mask4: 0xFFFFFFF0}
	for i := range prefixes.Base6 {
		prefixes.Base6[i] = binary.NativeEndian.Uint32(p6[4*i:])
		prefixes.Mask6[i] = 0xFFFFFFFF
	}
	prefixes.Mask6[3] = binary.NativeEndian.Uint32([]byte{0xFF, 0xFF, 0xFF, 0xF0})
	m.Table, err = hits.Open(hits.Config{
		Prefixes: prefixes, ListenerPort: binary.NativeEndian.Uint16([]byte{0, 53}), Slots: Slots, Host: Host, Inner: Inner, Tag: 7,
		Origins: m.origins, Daemon: m.daemon, PinDir: pinDir(t), Entries: entries,
		Evicted: func(tag []byte) { m.evicted = append(m.evicted, string(tag)) },
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = m.Table.Close() })
	if err := m.Start(); err != nil {
		t.Fatal(err)
	}
	return m
}

// Heartbeat shows the program that a process works, and NoHeartbeat that none does.
func (m *Machine) Heartbeat() {
	m.t.Helper()
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err != nil {
		m.t.Fatal(err)
	}
	m.setAlive(now)
}

// NoHeartbeat is described at Heartbeat.
func (m *Machine) NoHeartbeat() {
	m.t.Helper()
	m.setAlive(unix.Timespec{})
}

func (m *Machine) setAlive(now unix.Timespec) {
	m.t.Helper()
	var v [24]byte
	binary.NativeEndian.PutUint64(v[:], uint64(now.Nano()))
	if err := m.daemon.Put(uint32(0), v[:]); err != nil {
		m.t.Fatal(err)
	}
}

// SetOrigin gives a slot an original destination, and the generation that this has.
func (m *Machine) SetOrigin(slot uint32, to netip.Addr, generation uint32) {
	m.t.Helper()
	var v [40]byte
	a := to.As16()
	copy(v[:], a[:])
	v[17] = 53
	binary.NativeEndian.PutUint32(v[32:], generation)
	if err := m.origins.Put(slot, v[:]); err != nil {
		m.t.Fatal(err)
	}
}

// maxFrame is longer than any frame with an answer.
const maxFrame = 4096

// Run runs the program on a frame. It reports whether that was answered, and the frame as it is
// afterwards.
func (m *Machine) Run(frame []byte) (answered bool, after []byte, err error) {
	const redirect, unspec = 7, ^uint32(0) // TC_ACT_*
	o := ebpf.RunOptions{Data: frame, DataOut: make([]byte, maxFrame)}
	verdict, err := m.Program().Run(&o)
	if err == nil && verdict != redirect && verdict != unspec {
		err = fmt.Errorf("verdict %d", verdict)
	}
	return verdict == redirect, o.DataOut, err
}

// pinDir returns a directory for pins.
func pinDir(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	if err := pins.Mount(dir); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	})
	return dir
}
