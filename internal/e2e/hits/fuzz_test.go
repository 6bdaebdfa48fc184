// SPDX-License-Identifier: Apache-2.0

package hits

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"sotto/forwarder/wire"
	table "sotto/intercept/hits"
	"sotto/intercept/hits/hitstest"
	"sotto/internal/netlab/labtest"
)

const ethernet = 14

// slot is the slot that has a class.
const slot = 5

var client4, client6 = netip.MustParseAddr("10.1.2.3"), netip.MustParseAddr("2001:db8::7")

// machine is a program with answers, and the replies that user space would give.
type machine struct {
	*hitstest.Machine
	t       testing.TB
	replies map[string]wire.Reply // by wire.AppendKey
	stored  time.Duration
}

func newMachine(t testing.TB) *machine {
	t.Helper()
	labtest.NeedRoot(t)
	m := &machine{Machine: hitstest.New(t, 64), t: t, replies: map[string]wire.Reply{}, stored: table.Now() - 10*time.Second}
	m.fill()
	return m
}

// fill gives two slots a class, and stores answers of several lengths for it.
func (m *machine) fill() {
	m.t.Helper()
	m.SetOrigin(slot, netip.MustParseAddr("8.8.8.8"), 2)
	m.SetOrigin(slot+1, netip.MustParseAddr("2001:4860:4860::8888"), 4)
	class := m.NewClass()
	m.SetClass(slot, 2, class)
	m.SetClass(slot+1, 4, class)
	for _, records := range []int{1, 2, 15, 30} {
		for _, flags := range []byte{0, 1, 2, 3} {
			for _, ad := range []bool{false, true} {
				m.store(class, fmt.Sprintf("n%d-%v.example", records, ad), records, flags, ad)
			}
		}
	}
}

// store stores an answer with that number of address records, or larger ones for more than 16.
func (m *machine) store(class uint32, name string, records int, flags byte, ad bool) {
	m.t.Helper()
	question, err := wire.AppendParsed(nil, name+".")
	if err != nil {
		m.t.Fatal(err)
	}
	question = append(question, 0, 1, 0, 1)
	typ, size := byte(0), 4
	if records > table.MaxRecords {
		records, typ, size = 10, 0xFF, 100 // of a type that is not known
	}
	msg := append([]byte{0, 0, 0x81, 0x80, 0, 1, 0, byte(records), 0, 0, 0, 0}, question...)
	for n := range records {
		msg = append(msg, 0xC0, 12, typ, 1, 0, 1, 0, 0, 1, byte(n), 0, byte(size))
		msg = append(msg, bytes.Repeat([]byte{byte(n)}, size)...)
	}
	if ad {
		msg[3] |= 0x20
	}
	r, err := wire.ParseReply(msg)
	if err != nil {
		m.t.Fatal(err)
	}
	r.Rotate = false // as with a fixed order of addresses
	a := table.Answer{Class: class, DO: flags&1 != 0, CD: flags&2 != 0, Msg: r.Msg, QEnd: r.QEnd, TTLs: r.TTLs, AD: r.AD,
		Stored: m.stored, Refresh: m.stored + time.Hour, Expires: m.stored + time.Hour}
	if !m.Store(&a, m.Generation()) {
		m.t.Fatalf("%s was not stored", name)
	}
	m.replies[string(append(question, flags))] = r
}

// query returns a packet with a message for a slot.
func query(is6 bool, slot byte, message []byte) []byte {
	udp := binary.BigEndian.AppendUint16([]byte{0x9C, 0x40, 0, 53}, uint16(8+len(message)))
	udp = append(append(udp, 0, 0), message...)
	frame := append(append(append([]byte(nil), hitstest.Inner[:]...), hitstest.Host[:]...), 0x08, 0)
	if is6 {
		frame[12], frame[13] = 0x86, 0xDD
		ip := append([]byte{0x60, 0, 0, 0, byte(len(udp) >> 8), byte(len(udp)), 17, 60}, client6.AsSlice()...)
		frame = append(append(frame, ip...), hitstest.Virtual6(slot).AsSlice()...)
	} else {
		n := 20 + len(udp)
		ip := append([]byte{0x45, 0, byte(n >> 8), byte(n), 0, 7, 0, 0, 60, 17, 0, 0}, client4.AsSlice()...)
		frame = append(append(frame, ip...), hitstest.Virtual4(slot).AsSlice()...)
		binary.BigEndian.PutUint16(frame[ethernet+10:], ^sum(0, frame[ethernet:]))
	}
	frame = append(frame, udp...)
	setChecksum(frame)
	return frame
}

// sum adds bytes to a checksum.
func sum(start uint32, b []byte) uint16 {
	for i := 0; i+1 < len(b); i += 2 {
		start += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	if len(b)%2 == 1 {
		start += uint32(b[len(b)-1]) << 8
	}
	for start > 0xFFFF {
		start = start&0xFFFF + start>>16
	}
	return uint16(start)
}

// udpSum returns the sum of a datagram with its pseudo header: 0xFFFF if its checksum is right.
func udpSum(frame []byte) uint16 {
	ip, at := frame[ethernet:], 20
	addresses := ip[12:20]
	if ip[0]>>4 == 6 {
		at, addresses = 40, ip[8:40]
	}
	return sum(uint32(sum(uint32(17+len(ip)-at), addresses)), ip[at:])
}

func setChecksum(frame []byte) {
	at := ethernet + 20 + 6
	if frame[ethernet]>>4 == 6 {
		at = ethernet + 40 + 6
	}
	clear(frame[at : at+2])
	binary.BigEndian.PutUint16(frame[at:], ^udpSum(frame))
}

// age returns the age of the answers in seconds.
func (m *machine) age() uint32 { return uint32((table.Now() - m.stored) / time.Second) }

// check runs a frame and compares the result with user space. It reports whether it was answered.
func (m *machine) check(frame []byte) bool {
	m.t.Helper()
	first := m.age()
	answered, after, err := m.Run(frame)
	last := m.age()
	if errors.Is(err, unix.EINVAL) { // shorter than its IP header: the kernel gives no such packets to programs
		return false
	}
	if err != nil {
		m.t.Fatalf("%v\n%x", err, frame)
	}
	if !answered {
		if !bytes.Equal(frame, after) {
			m.t.Fatalf("changed and not answered:\n%x\n%x", frame, after)
		}
		return false
	}
	fail := func(format string, args ...any) {
		m.t.Helper()
		m.t.Fatalf(fmt.Sprintf(format, args...)+"\nquery %x\nreply %x", frame, after)
	}
	at := ethernet + 20
	if frame[12] == 0x86 {
		at = ethernet + 40
	}
	if len(frame) < at+8 || frame[12] == 0x08 && frame[ethernet] != 0x45 || binary.BigEndian.Uint16(frame[at+2:]) != 53 {
		fail("answered a packet that is not a usual query")
	}
	q, err := wire.ParseQuery(frame[at+8:])
	if err != nil || q.Opcode != wire.OpcodeQuery || !q.RD || q.HasCookie() || q.Signed {
		fail("answered what user space refuses: %v", err)
	}
	reply, known := m.replies[string(wire.AppendKey(nil, &q))]
	if !known {
		fail("answered an unknown question")
	}
	want := wire.AppendReply(nil, &q, &reply, first, q.UDPLimit())
	if !bytes.Equal(after[at+8:], want) && !bytes.Equal(after[at+8:], wire.AppendReply(nil, &q, &reply, last, q.UDPLimit())) {
		fail("user space replies %x", want)
	}
	if frame[12] == 0x08 && (sum(0, after[ethernet:at]) != 0xFFFF || int(binary.BigEndian.Uint16(after[ethernet+2:])) != len(after)-ethernet) {
		fail("wrong IP header")
	}
	check := binary.BigEndian.Uint16(frame[at+6:])
	if check == 0 && binary.BigEndian.Uint16(after[at+6:]) != 0 || check != 0 && udpSum(frame) == 0xFFFF && udpSum(after) != 0xFFFF {
		fail("wrong UDP checksum")
	}
	if int(binary.BigEndian.Uint16(after[at+4:])) != len(after)-at || !bytes.Equal(after[at:at+2], frame[at+2:at+4]) || !bytes.Equal(after[at+2:at+4], frame[at:at+2]) {
		fail("wrong UDP header")
	}
	if !bytes.Equal(after[:6], hitstest.Host[:]) || !bytes.Equal(after[6:12], hitstest.Inner[:]) {
		fail("wrong Ethernet addresses")
	}
	return true
}

// messages returns queries for all stored answers, with and without EDNS.
func (m *machine) messages() (all [][]byte) {
	for key := range m.replies {
		n := len(key) - 1
		flags := byte(0)
		if key[n]&2 != 0 {
			flags = 0x10
		}
		header := []byte{0x12, 0x34, 1, flags, 0, 1, 0, 0, 0, 0, 0, 0}
		if key[n]&1 == 0 {
			all = append(all, append(bytes.Clone(header), key[:n]...))
		}
		header[11] = 1
		for _, size := range []uint16{512, 1232} {
			opt := append([]byte{0, 0, 41}, byte(size>>8), byte(size), 0, 0, key[n]&1<<7, 0, 0, 0)
			all = append(all, append(append(bytes.Clone(header), key[:n]...), opt...))
		}
	}
	return all
}

// TestRandomPackets sends valid queries and damaged ones to the program.
func TestRandomPackets(t *testing.T) {
	m := newMachine(t)
	all, answered, changed := m.messages(), 0, 0
	for i, message := range all {
		for _, is6 := range []bool{false, true} {
			s := byte(slot)
			if is6 {
				s++
			}
			if m.check(query(is6, s, message)) {
				answered++
			}
			if m.check(query(is6, s^3, message)) || m.check(query(!is6, s, message)) {
				t.Errorf("answered for a slot without a class, or of the other family: %d", i)
			}
		}
	}
	if answered < len(all) {
		t.Errorf("answered %d of %d queries", answered, 2*len(all))
	}
	r := rand.New(rand.NewPCG(1, 2))
	for range 20000 {
		is6, message := r.IntN(2) == 0, bytes.Clone(all[r.IntN(len(all))])
		frame := query(is6, slot+byte(r.IntN(2)), message)
		for n := r.IntN(3); n >= 0 && len(frame) > ethernet+1; n-- {
			switch r.IntN(6) {
			case 0:
				frame = frame[:r.IntN(len(frame)-ethernet-1)+ethernet+1]
			case 1:
				frame = append(frame, make([]byte, r.IntN(40))...)
			case 2:
				frame[12+r.IntN(len(frame)-12)] = byte(r.IntN(256))
			default:
				frame[ethernet+r.IntN(len(frame)-ethernet)] ^= 1 << r.IntN(8)
			}
		}
		if m.check(frame) {
			changed++
		}
	}
	t.Logf("answered %d of %d valid queries, and %d of 20000 damaged ones", answered, 2*len(all), changed)
}

// FuzzPackets gives arbitrary packets to the program.
func FuzzPackets(f *testing.F) {
	m := newMachine(f)
	for _, message := range m.messages()[:16] {
		f.Add(query(false, slot, message))
		f.Add(query(true, slot+1, message))
	}
	f.Fuzz(func(t *testing.T, frame []byte) {
		if len(frame) <= ethernet { // the kernel has no such packets
			return
		}
		on := *m
		on.t = t
		on.check(frame)
	})
}

// TestForgotten checks that nothing is answered that is not valid any more.
func TestForgotten(t *testing.T) {
	m := newMachine(t)
	for what, forget := range map[string]func(m *machine){
		"another generation":     func(m *machine) { m.Invalidate(false) },
		"other classes":          func(m *machine) { m.Invalidate(true) },
		"another start":          func(m *machine) { _ = m.Start() },
		"another origin":         func(m *machine) { m.SetOrigin(slot, netip.MustParseAddr("9.9.9.9"), 4) },
		"an origin that changes": func(m *machine) { m.SetOrigin(slot, netip.MustParseAddr("8.8.8.8"), 3) },
		"no class":               func(m *machine) { m.SetClass(slot, 2, 0) },
		"another class":          func(m *machine) { m.SetClass(slot, 2, m.NewClass()) },
	} {
		m.fill()
		frame := query(false, slot, m.messages()[0])
		for i := 0; !m.check(frame); i++ {
			frame = query(false, slot, m.messages()[i])
		}
		if forget(m); m.check(frame) {
			t.Errorf("%s: answered", what)
		}
	}
	m.fill()
	frame := query(false, slot, m.messages()[0])
	for i := 0; !m.check(frame); i++ {
		frame = query(false, slot, m.messages()[i])
	}
	if m.Stop(); !m.check(frame) {
		t.Error("stopped: not answered")
	}
	if m.Invalidate(true); m.check(frame) {
		t.Error("stopped, and another generation: answered")
	}
}
