// SPDX-License-Identifier: Apache-2.0

package wire

import "strconv"

// Sizes set by RFCs or chosen for this forwarder.
const (
	// HeaderLen is the length of the fixed header (RFC 1035 §4.1.1).
	HeaderLen = 12
	// MaxMessage is the maximum of TCP's length field.
	MaxMessage = 65535
	// MaxName is the maximum length of a wire name, root byte included (RFC 1035 §3.1).
	MaxName = 255
	// MaxLabel is the maximum length of a label.
	MaxLabel = 63
	// MinUDPSize is the size that every client accepts, with EDNS or without; a
	// smaller size in an OPT record means this (RFC 6891 §6.2.3).
	MinUDPSize = 512
	// UDPSize is the size that Sotto announces, and the maximum that it sends in a
	// datagram. It fits the IPv6 minimum MTU, so datagrams are never fragmented (DNS
	// flag day 2020, RFC 9715).
	UDPSize = 1232
	// MaxErrorLen is the maximum that AppendError appends: it fits every client.
	MaxErrorLen = MinUDPSize
	// MaxQueryLen is the maximum that AppendQuery appends: header, longest question
	// and OPT, padded to a multiple of 128.
	MaxQueryLen = 384
	// MaxKeyLen is the maximum that AppendKey appends.
	MaxKeyLen = MaxName + 5
	// StaleTTL is the TTL of every record in a stale reply, in seconds (RFC 8767 §4):
	// short enough that the client soon gets the current answer, long enough that it
	// does not query again and again.
	StaleTTL = 30
)

// Opcodes (RFC 1035, 1996, 2136, 8490).
const (
	OpcodeQuery  uint8 = 0
	OpcodeIQuery uint8 = 1
	OpcodeStatus uint8 = 2
	OpcodeNotify uint8 = 4
	OpcodeUpdate uint8 = 5
	OpcodeDSO    uint8 = 6
)

// Response codes. Those above 15 need an OPT record (RFC 6891 §6.1.3).
const (
	RcodeSuccess   uint16 = 0
	RcodeFormErr   uint16 = 1
	RcodeServFail  uint16 = 2
	RcodeNXDomain  uint16 = 3
	RcodeNotImp    uint16 = 4
	RcodeRefused   uint16 = 5
	RcodeYXDomain  uint16 = 6
	RcodeNotAuth   uint16 = 9
	RcodeBadVers   uint16 = 16
	RcodeBadCookie uint16 = 23
)

// Classes.
const (
	ClassIN   uint16 = 1
	ClassCH   uint16 = 3
	ClassHS   uint16 = 4
	ClassNONE uint16 = 254
	ClassANY  uint16 = 255
)

// Record types that the forwarder or its tests use.
const (
	TypeA        uint16 = 1
	TypeNS       uint16 = 2
	TypeMD       uint16 = 3
	TypeMF       uint16 = 4
	TypeCNAME    uint16 = 5
	TypeSOA      uint16 = 6
	TypeMB       uint16 = 7
	TypeMG       uint16 = 8
	TypeMR       uint16 = 9
	TypePTR      uint16 = 12
	TypeHINFO    uint16 = 13
	TypeMINFO    uint16 = 14
	TypeMX       uint16 = 15
	TypeTXT      uint16 = 16
	TypeRP       uint16 = 17
	TypeAFSDB    uint16 = 18
	TypeRT       uint16 = 21
	TypeNSAPPTR  uint16 = 23 // NSAP-PTR
	TypeSIG      uint16 = 24
	TypePX       uint16 = 26
	TypeAAAA     uint16 = 28
	TypeNXT      uint16 = 30
	TypeSRV      uint16 = 33
	TypeNAPTR    uint16 = 35
	TypeKX       uint16 = 36
	TypeDNAME    uint16 = 39
	TypeOPT      uint16 = 41
	TypeDS       uint16 = 43
	TypeIPSECKEY uint16 = 45
	TypeRRSIG    uint16 = 46
	TypeNSEC     uint16 = 47
	TypeDNSKEY   uint16 = 48
	TypeNSEC3    uint16 = 50
	TypeTLSA     uint16 = 52
	TypeHIP      uint16 = 55
	TypeTALINK   uint16 = 58
	TypeSVCB     uint16 = 64
	TypeHTTPS    uint16 = 65
	TypeDSYNC    uint16 = 66
	TypeLP       uint16 = 107
	TypeTKEY     uint16 = 249
	TypeTSIG     uint16 = 250
	TypeIXFR     uint16 = 251
	TypeAXFR     uint16 = 252
	TypeMAILB    uint16 = 253
	TypeMAILA    uint16 = 254
	TypeANY      uint16 = 255
	TypeCAA      uint16 = 257
	TypeAMTRELAY uint16 = 260
)

// Extended DNS Errors (RFC 8914 §5.2 and the IANA registry).
const (
	EDEOther                uint16 = 0
	EDEUnsupportedDNSKEY    uint16 = 1
	EDEUnsupportedDS        uint16 = 2
	EDEStaleAnswer          uint16 = 3
	EDEForgedAnswer         uint16 = 4
	EDEIndeterminate        uint16 = 5
	EDEBogus                uint16 = 6
	EDESignatureExpired     uint16 = 7
	EDESignatureNotYetValid uint16 = 8
	EDEDNSKEYMissing        uint16 = 9
	EDERRSIGsMissing        uint16 = 10
	EDENoZoneKey            uint16 = 11
	EDENSECMissing          uint16 = 12
	EDECachedError          uint16 = 13
	EDENotReady             uint16 = 14
	EDEBlocked              uint16 = 15
	EDECensored             uint16 = 16
	EDEFiltered             uint16 = 17
	EDEProhibited           uint16 = 18
	EDEStaleNXDomain        uint16 = 19
	EDENotAuthoritative     uint16 = 20
	EDENotSupported         uint16 = 21
	EDENoReachableAuthority uint16 = 22
	EDENetworkError         uint16 = 23
	EDEInvalidData          uint16 = 24
)

var typeNames = map[uint16]string{
	TypeA: "A", TypeNS: "NS", TypeMD: "MD", TypeMF: "MF", TypeCNAME: "CNAME",
	TypeSOA: "SOA", TypeMB: "MB", TypeMG: "MG", TypeMR: "MR", 10: "NULL",
	11: "WKS", TypePTR: "PTR", TypeHINFO: "HINFO", TypeMINFO: "MINFO",
	TypeMX: "MX", TypeTXT: "TXT", TypeRP: "RP", TypeAFSDB: "AFSDB", 19: "X25",
	20: "ISDN", TypeRT: "RT", TypeNSAPPTR: "NSAP-PTR", TypeSIG: "SIG", 25: "KEY",
	TypePX: "PX", TypeAAAA: "AAAA", 29: "LOC", TypeNXT: "NXT", TypeSRV: "SRV",
	TypeNAPTR: "NAPTR", TypeKX: "KX", 37: "CERT", TypeDNAME: "DNAME",
	TypeOPT: "OPT", 42: "APL", TypeDS: "DS", 44: "SSHFP", TypeIPSECKEY: "IPSECKEY",
	TypeRRSIG: "RRSIG", TypeNSEC: "NSEC", TypeDNSKEY: "DNSKEY", 49: "DHCID",
	TypeNSEC3: "NSEC3", 51: "NSEC3PARAM", TypeTLSA: "TLSA", 53: "SMIMEA",
	TypeHIP: "HIP", TypeTALINK: "TALINK", 59: "CDS", 60: "CDNSKEY", 61: "OPENPGPKEY",
	62: "CSYNC", 63: "ZONEMD", TypeSVCB: "SVCB", TypeHTTPS: "HTTPS", TypeDSYNC: "DSYNC",
	99: "SPF", 104: "NID", 105: "L32", 106: "L64", TypeLP: "LP", 108: "EUI48",
	109: "EUI64", TypeTKEY: "TKEY", TypeTSIG: "TSIG", TypeIXFR: "IXFR",
	TypeAXFR: "AXFR", TypeMAILB: "MAILB", TypeMAILA: "MAILA", TypeANY: "ANY",
	256: "URI", TypeCAA: "CAA", TypeAMTRELAY: "AMTRELAY", 261: "RESINFO",
	32768: "TA", 32769: "DLV",
}

// TypeName returns a type's mnemonic, or the form TYPE12345 (RFC 3597 §5) if it is not in
// the table.
func TypeName(t uint16) string {
	if s, ok := typeNames[t]; ok {
		return s
	}
	return "TYPE" + strconv.Itoa(int(t))
}
