// SPDX-License-Identifier: Apache-2.0

package signature

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	_ "crypto/sha1" // of the algorithms 5 and 7, of NSEC3 and of DS records
	"crypto/sha256"
	_ "crypto/sha512"
	"math/big"

	"github.com/cloudflare/circl/sign/ed448"

	"sotto/forwarder/dnssec/record"
)

// Algorithms of keys (the IANA registry of DNSSEC algorithm numbers).
const (
	RSASHA1         = 5
	RSASHA1NSEC3    = 7
	RSASHA256       = 8
	RSASHA512       = 10
	ECDSAP256SHA256 = 13
	ECDSAP384SHA384 = 14
	ED25519         = 15
	ED448           = 16
)

// Sizes of RSA keys, in bits. Shorter ones can be factored, and [crypto/rsa] refuses them; longer
// ones cost a hostile zone nothing and us much.
const (
	minRSA = 1024
	maxRSA = 4096
)

// Supported reports whether an algorithm is supported. Those with SHA-1 are only if sha1 is set.
func Supported(algorithm uint8, sha1 bool) bool {
	switch algorithm {
	case RSASHA1, RSASHA1NSEC3:
		return sha1
	case RSASHA256, RSASHA512, ECDSAP256SHA256, ECDSAP384SHA384, ED25519, ED448:
		return true
	}
	return false
}

// Digests of DS records.
const (
	DigestSHA1   = 1
	DigestSHA256 = 2
	DigestSHA384 = 4
)

// SupportedDigest reports whether a digest type is supported.
func SupportedDigest(typ uint8) bool { return digest(typ) != 0 }

func digest(typ uint8) crypto.Hash {
	switch typ {
	case DigestSHA1:
		return crypto.SHA1
	case DigestSHA256:
		return crypto.SHA256
	case DigestSHA384:
		return crypto.SHA384
	}
	return 0
}

// Matches reports whether ds is the digest of the key of a zone.
func Matches(ds record.DS, zone record.Name, key record.DNSKEY) bool {
	h := digest(ds.Type)
	if h == 0 || len(ds.Digest) != h.Size() {
		return false
	}
	sum := h.New()
	sum.Write([]byte(zone))
	sum.Write(key)
	return bytes.Equal(sum.Sum(nil), ds.Digest)
}

// Key is a zone's key.
type Key struct {
	Tag       uint16
	Algorithm uint8
	id        [sha256.Size]byte
	public    any
}

// NewKey checks a DNSKEY. It reports false if the key cannot verify signatures of a zone, or if
// its algorithm or size is not supported.
func NewKey(k record.DNSKEY, sha1 bool) (key Key, ok bool) {
	if !k.Usable() || !Supported(k.Algorithm(), sha1) {
		return key, false
	}
	key = Key{Tag: k.Tag(), Algorithm: k.Algorithm(), id: sha256.Sum256(k)}
	public := k.Public()
	switch key.Algorithm {
	case ECDSAP256SHA256:
		key.public, ok = newECDSA(elliptic.P256(), public)
	case ECDSAP384SHA384:
		key.public, ok = newECDSA(elliptic.P384(), public)
	case ED25519:
		key.public, ok = ed25519.PublicKey(public), len(public) == ed25519.PublicKeySize
	case ED448:
		key.public, ok = ed448.PublicKey(public), len(public) == ed448.PublicKeySize
	default:
		key.public, ok = newRSA(public)
	}
	return key, ok
}

// newECDSA reads a key in the format of RFC 6605 §4: both coordinates.
func newECDSA(curve elliptic.Curve, public []byte) (*ecdsa.PublicKey, bool) {
	k, err := ecdsa.ParseUncompressedPublicKey(curve, append([]byte{4}, public...))
	return k, err == nil
}

// newRSA reads a key in the format of RFC 3110 §2: the exponent with its length, and the modulus.
func newRSA(public []byte) (*rsa.PublicKey, bool) {
	if len(public) < 3 {
		return nil, false
	}
	size, rest := int(public[0]), public[1:]
	if size == 0 {
		size, rest = int(public[1])<<8|int(public[2]), public[3:]
	}
	if size == 0 || size >= len(rest) {
		return nil, false
	}
	e, n := new(big.Int).SetBytes(rest[:size]), new(big.Int).SetBytes(rest[size:])
	if e.BitLen() > 31 || e.Int64() < 3 || e.Bit(0) == 0 || n.BitLen() < minRSA || n.BitLen() > maxRSA || n.Bit(0) == 0 {
		return nil, false
	}
	return &rsa.PublicKey{N: n, E: int(e.Int64())}, true
}

// Verify reports whether the signature of data was made with the key.
func (k *Key) Verify(data, signature []byte) bool {
	switch public := k.public.(type) {
	case ed25519.PublicKey:
		return ed25519.Verify(public, data, signature)
	case ed448.PublicKey:
		return ed448.Verify(public, data, signature, "")
	case *ecdsa.PublicKey:
		return verifyECDSA(public, data, signature)
	case *rsa.PublicKey:
		h := map[uint8]crypto.Hash{RSASHA1: crypto.SHA1, RSASHA1NSEC3: crypto.SHA1, RSASHA256: crypto.SHA256, RSASHA512: crypto.SHA512}[k.Algorithm]
		return rsa.VerifyPKCS1v15(public, h, hash(h, data), signature) == nil
	}
	return false
}

func hash(h crypto.Hash, data []byte) []byte {
	sum := h.New()
	sum.Write(data)
	return sum.Sum(nil)
}

// verifyECDSA verifies a signature in the format of RFC 6605 §4: r and s.
func verifyECDSA(public *ecdsa.PublicKey, data, signature []byte) bool {
	size := (public.Curve.Params().BitSize + 7) / 8
	if len(signature) != 2*size {
		return false
	}
	h := crypto.SHA256
	if size > 32 {
		h = crypto.SHA384
	}
	r, s := new(big.Int).SetBytes(signature[:size]), new(big.Int).SetBytes(signature[size:])
	return ecdsa.Verify(public, hash(h, data), r, s)
}
