// SPDX-License-Identifier: Apache-2.0

package drops

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"testing"

	"sotto/intercept/clienttest"
)

// TestParse: addresses, ports and message of packets of each kind.
func TestParse(t *testing.T) {
	tcp := clienttest.TCP(53, 0x18, "\x00\x0a"+clienttest.Question)
	for name, tc := range map[string]struct {
		packet   []byte
		src, dst string
		message  string
	}{
		"IPv4 UDP":           {clienttest.Packet4(17, 0, clienttest.To4, clienttest.UDP(53)), "10.77.0.2:40000", "8.8.8.8:53", clienttest.Question},
		"IPv4 TCP":           {clienttest.Packet4(6, 0, clienttest.To4, tcp), "10.77.0.2:40000", "8.8.8.8:53", clienttest.Question},
		"IPv4 SYN":           {clienttest.Packet4(6, 0, clienttest.To4, clienttest.TCP(53, 2, "")), "10.77.0.2:40000", "8.8.8.8:53", ""},
		"IPv4 half a TCP":    {clienttest.Packet4(6, 0x2000, clienttest.To4, tcp[:8]), "10.77.0.2:40000", "8.8.8.8:53", ""},
		"IPv4 late fragment": {clienttest.Packet4(17, 3, clienttest.To4, clienttest.UDP(53)), "10.77.0.2:0", "8.8.8.8:0", ""},
		"IPv4 short":         {clienttest.Packet4(17, 0, clienttest.To4, clienttest.UDP(53))[:24], "10.77.0.2:0", "8.8.8.8:0", ""},
		"IPv4 other":         {clienttest.Packet4(1, 0, clienttest.To4, clienttest.UDP(53)), "10.77.0.2:0", "8.8.8.8:0", ""},
		"IPv6 UDP":           {clienttest.Packet6(clienttest.To6, 17, clienttest.UDP(53)), "[fd77::2]:40000", "[2001:db8::53]:53", clienttest.Question},
		"IPv6 extensions": {clienttest.Packet6(clienttest.To6, 0, []byte{51, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0},
			[]byte{44, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}, []byte{17, 0, 0, 1, 0, 0, 0, 7}, clienttest.UDP(53)), "[fd77::2]:40000", "[2001:db8::53]:53", clienttest.Question},
		"IPv6 late fragment": {clienttest.Packet6(clienttest.To6, 44, []byte{17, 0, 0, 9, 0, 0, 0, 7}, clienttest.UDP(53)), "[fd77::2]:0", "[2001:db8::53]:0", ""},
		"IPv6 cut":           {clienttest.Packet6(clienttest.To6, 60, []byte{17, 9, 0, 0, 0, 0, 0, 0}), "[fd77::2]:0", "[2001:db8::53]:0", ""},
	} {
		p := Parse(tc.packet)
		if p.Src.String() != tc.src || p.Dst.String() != tc.dst || string(p.Message) != tc.message {
			t.Errorf("%s: from %v to %v, message %q", name, p.Src, p.Dst, p.Message)
		}
	}
	for _, b := range [][]byte{nil, {0x45}, {0x60}, bytes.Repeat([]byte{0xff}, 100)} {
		if p := Parse(b); p.Dst.IsValid() || p.Message != nil {
			t.Errorf("%x: %+v", b, p)
		}
	}
}

// TestDecode: records of the kernel, which have its byte order. Records of another length are
// refused.
func TestDecode(t *testing.T) {
	packet := clienttest.Packet4(17, 0, clienttest.To4, clienttest.UDP(53))
	b := make([]byte, headLen+dropBytes)
	n := binary.NativeEndian
	n.PutUint64(b, 11)
	n.PutUint64(b[8:], 12)
	n.PutUint32(b[16:], 13)
	n.PutUint32(b[20:], 14)
	copy(b[24:], "program\x00rest")
	n.PutUint32(b[60:], 15)
	n.PutUint32(b[64:], flagPassed)
	n.PutUint32(b[68:], uint32(len(packet)))
	copy(b[headLen:], packet)
	e, err := Decode(b)
	if err != nil || e.Time != 11 || e.Cgroup != 12 || e.PID != 13 || e.UID != 14 || e.Comm != "program" || e.Reason != 15 || !e.Passed || e.Hook ||
		e.Dst != netip.MustParseAddrPort("8.8.8.8:53") || string(e.Message) != clienttest.Question {
		t.Errorf("%+v, %v", e, err)
	}
	n.PutUint32(b[64:], flagHook)
	n.PutUint32(b[68:], 0)
	to := netip.MustParseAddr("::ffff:192.0.2.53").As16()
	copy(b[40:], to[:])
	binary.BigEndian.PutUint16(b[56:], 53)
	n.PutUint16(b[58:], 6)
	if e, err = Decode(b[:headLen]); err != nil || !e.Hook || e.Dst != netip.MustParseAddrPort("192.0.2.53:53") || e.Protocol != 6 || e.Src.IsValid() {
		t.Errorf("%+v, %v", e, err)
	}
	n.PutUint32(b[68:], dropBytes+1)
	for _, bad := range [][]byte{nil, b[:headLen-1], b[:headLen+dropBytes], append(b, 0)} {
		if e, err := Decode(bad); err == nil {
			t.Errorf("%d bytes: %+v", len(bad), e)
		}
	}
}

// FuzzParse: no packet makes the parser fail, and a message is a part of the packet.
func FuzzParse(f *testing.F) {
	f.Add(clienttest.Packet4(17, 0, clienttest.To4, clienttest.UDP(53)))
	f.Add(clienttest.Packet6(clienttest.To6, 44, []byte{17, 0, 0, 1, 0, 0, 0, 7}, clienttest.UDP(53)))
	f.Fuzz(func(t *testing.T, b []byte) {
		if p := Parse(b); !bytes.HasSuffix(b, p.Message) {
			t.Errorf("message %x", p.Message)
		}
	})
}
