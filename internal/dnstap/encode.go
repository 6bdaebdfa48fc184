// SPDX-License-Identifier: Apache-2.0

package dnstap

import (
	"encoding/binary"
	"net/netip"
	"time"

	"google.golang.org/protobuf/encoding/protowire"

	"sotto/forwarder/tap"
)

// Field numbers of the message Dnstap in dnstap.proto.
const (
	fieldIdentity = 1
	fieldVersion  = 2
	fieldExtra    = 3
	fieldMessage  = 14
	fieldType     = 15

	typeMessage = 1
)

// Field numbers of the message Message.
const (
	fieldKind            = 1
	fieldFamily          = 2
	fieldProtocol        = 3
	fieldQueryAddress    = 4
	fieldResponseAddress = 5
	fieldQueryPort       = 6
	fieldResponsePort    = 7
	fieldQuerySeconds    = 8
	fieldQueryNanos      = 9
	fieldQueryMessage    = 10
	fieldResponseSeconds = 12
	fieldResponseNanos   = 13
	fieldResponseMessage = 14

	familyINET  = 1
	familyINET6 = 2
)

var (
	kinds  = [...]uint64{tap.ClientQuery: 5, tap.ClientResponse: 6, tap.ForwarderQuery: 7, tap.ForwarderResponse: 8}
	protos = [...]uint64{tap.UDP: 1, tap.TCP: 2, tap.TLS: 3, tap.HTTPS: 4, tap.QUIC: 7} // UDP, TCP, DOT, DOH, DOQ
)

// appendFrame appends the data frame of a message. head is the start of every Dnstap message,
// extra the value of that field, if any.
func appendFrame(dst, head, extra []byte, m *tap.Message) []byte {
	start := len(dst)
	dst = append(dst, 0, 0, 0, 0)
	dst = append(dst, head...)
	if len(extra) > 0 {
		dst = protowire.AppendTag(dst, fieldExtra, protowire.BytesType)
		dst = protowire.AppendBytes(dst, extra)
	}
	dst = protowire.AppendTag(dst, fieldMessage, protowire.BytesType)
	// The length precedes the message. The fields except the last one have at most 128 bytes.
	var room [128]byte
	fields := appendFields(room[:0], m)
	data := protowire.Number(fieldQueryMessage)
	if !m.Replied.IsZero() {
		data = fieldResponseMessage
	}
	dst = protowire.AppendVarint(dst, uint64(len(fields)+protowire.SizeTag(data)+protowire.SizeBytes(len(m.Data))))
	dst = append(dst, fields...)
	dst = protowire.AppendTag(dst, data, protowire.BytesType)
	dst = protowire.AppendBytes(dst, m.Data)
	binary.BigEndian.PutUint32(dst[start:], uint32(len(dst)-start-frameHeaderLen))
	return dst
}

// appendHead appends the fields that are the same in every Dnstap message.
func appendHead(dst []byte, identity, version string) []byte {
	dst = appendNumber(dst, fieldType, typeMessage)
	dst = protowire.AppendTag(dst, fieldIdentity, protowire.BytesType)
	dst = protowire.AppendString(dst, identity)
	dst = protowire.AppendTag(dst, fieldVersion, protowire.BytesType)
	return protowire.AppendString(dst, version)
}

// appendFields appends the fields of a Message except the DNS message itself.
func appendFields(dst []byte, m *tap.Message) []byte {
	dst = appendNumber(dst, fieldKind, kinds[m.Kind])
	if a := m.Responder.Addr(); a.IsValid() {
		family := uint64(familyINET6)
		if a.Is4() {
			family = familyINET
		}
		dst = appendNumber(dst, fieldFamily, family)
	}
	dst = appendNumber(dst, fieldProtocol, protos[m.Proto])
	dst = appendAddress(dst, fieldQueryAddress, fieldQueryPort, m.Querier)
	dst = appendAddress(dst, fieldResponseAddress, fieldResponsePort, m.Responder)
	dst = appendTime(dst, fieldQuerySeconds, fieldQueryNanos, m.Queried)
	if !m.Replied.IsZero() {
		dst = appendTime(dst, fieldResponseSeconds, fieldResponseNanos, m.Replied)
	}
	return dst
}

func appendNumber(dst []byte, field protowire.Number, v uint64) []byte {
	return protowire.AppendVarint(protowire.AppendTag(dst, field, protowire.VarintType), v)
}

// appendAddress appends an address and its port, as far as they are known.
func appendAddress(dst []byte, addr, port protowire.Number, a netip.AddrPort) []byte {
	switch ip := a.Addr(); {
	case ip.Is4():
		b := ip.As4()
		dst = protowire.AppendBytes(protowire.AppendTag(dst, addr, protowire.BytesType), b[:])
	case ip.Is6():
		b := ip.As16()
		dst = protowire.AppendBytes(protowire.AppendTag(dst, addr, protowire.BytesType), b[:])
	}
	if a.Port() != 0 {
		dst = appendNumber(dst, port, uint64(a.Port()))
	}
	return dst
}

func appendTime(dst []byte, seconds, nanos protowire.Number, t time.Time) []byte {
	dst = appendNumber(dst, seconds, uint64(t.Unix()))
	return protowire.AppendFixed32(protowire.AppendTag(dst, nanos, protowire.Fixed32Type), uint32(t.Nanosecond()))
}
