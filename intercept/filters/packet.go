// SPDX-License-Identifier: Apache-2.0

package filters

import (
	"encoding/binary"
	"net/netip"

	"golang.org/x/sys/unix"
)

const (
	etherLen = 14
	ipv4Len  = 20
	ipv6Len  = 40
	udpLen   = 8
	hopLimit = 64
)

// Datagram returns an Ethernet frame with a UDP datagram without payload, for [Program.Drops].
// Both addresses have the same family. It has no checksums.
func Datagram(src, dst netip.AddrPort) []byte {
	b := make([]byte, etherLen)
	if src.Addr().Is4() {
		binary.BigEndian.PutUint16(b[12:], unix.ETH_P_IP)
		ip := make([]byte, ipv4Len)
		ip[0] = 4<<4 | ipv4Len/4
		binary.BigEndian.PutUint16(ip[2:], ipv4Len+udpLen)
		ip[8], ip[9] = hopLimit, unix.IPPROTO_UDP
		copy(ip[12:], src.Addr().AsSlice())
		copy(ip[16:], dst.Addr().AsSlice())
		b = append(b, ip...)
	} else {
		binary.BigEndian.PutUint16(b[12:], unix.ETH_P_IPV6)
		ip := make([]byte, ipv6Len)
		ip[0] = 6 << 4
		binary.BigEndian.PutUint16(ip[4:], udpLen)
		ip[6], ip[7] = unix.IPPROTO_UDP, hopLimit
		copy(ip[8:], src.Addr().AsSlice())
		copy(ip[24:], dst.Addr().AsSlice())
		b = append(b, ip...)
	}
	b = binary.BigEndian.AppendUint16(b, src.Port())
	b = binary.BigEndian.AppendUint16(b, dst.Port())
	b = binary.BigEndian.AppendUint16(b, udpLen)
	return append(b, 0, 0)
}
