// SPDX-License-Identifier: Apache-2.0

package shared

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"time"

	"sotto/forwarder/wire"
)

// The format of a value, big endian:
//
//	version (1 byte), body, checksum of both (4)    without a secret
//	version (1 byte), nonce (12), sealed body       with a secret; the version is authenticated
//
// A body is the time when the answer was stored (8, Unix nanoseconds), the length of the key
// (2), the key, and the reply in wire format, with EDEs in an OPT record, so that the checks
// for an upstream's reply apply.
const (
	versionPlain  = 1
	versionSealed = 2

	bodyHead = 10
	sumLen   = 4
	sealLen  = 12 + 16 // nonce and tag
	overhead = 1 + sealLen

	// maxKey is the length of the longest key: name, type, class, flags, and the scope and
	// identity of a group.
	maxKey = wire.MaxName + 5 + 250

	// MinSecret is the minimum length of a secret in bytes.
	MinSecret = 32

	// clockSlack is how much later than the reader's clock an answer may have been stored.
	clockSlack = 2 * time.Second
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Errors of a value. The answer is then a miss.
var (
	errShort   = errors.New("it is too short")
	errVersion = errors.New("another version stored it, or an instance with another secret")
	errSum     = errors.New("its checksum is wrong")
	errSealed  = errors.New("it was not stored by an instance with this secret")
	errKey     = errors.New("it was stored for another question")
	errFuture  = errors.New("it was stored in the future: compare the clocks of the instances")
)

// codec encodes answers for a store, and checks what comes from there.
type codec struct {
	prefix string
	names  []byte // key of the HMAC that names entries; nil without a secret
	seals  []byte // key from which each entry's encryption key is derived
}

func newCodec(prefix string, secret []byte) (codec, error) {
	c := codec{prefix: fmt.Sprintf("%s%d:", prefix, versionPlain)}
	if secret == nil {
		return c, nil
	}
	if len(secret) < MinSecret {
		return c, fmt.Errorf("make a shared cache: the secret has %d bytes: want at least %d", len(secret), MinSecret)
	}
	c.prefix = fmt.Sprintf("%s%d:", prefix, versionSealed)
	var err error
	if c.names, err = hkdf.Key(sha256.New, secret, nil, "sotto shared cache: names", sha256.Size); err != nil {
		return c, err
	}
	c.seals, err = hkdf.Key(sha256.New, secret, nil, "sotto shared cache: values", sha256.Size)
	return c, err
}

// name returns the name of the entry for key in the store. Names of instances with different
// secrets differ.
func (c *codec) name(key []byte) string {
	var sum [sha256.Size]byte
	if c.names == nil {
		sum = sha256.Sum256(key)
	} else {
		sum = [sha256.Size]byte(mac(c.names, key))
	}
	return c.prefix + base64.RawURLEncoding.EncodeToString(sum[:])
}

func mac(secret, text []byte) []byte {
	h := hmac.New(sha256.New, secret)
	h.Write(text)
	return h.Sum(nil)
}

// cipher returns the cipher of the entry for key. Each entry has a key of its own, so that
// random nonces do not repeat however many answers are stored.
func (c *codec) cipher(key []byte) (cipher.AEAD, error) {
	block, err := aes.NewCipher(mac(c.seals, key))
	if err != nil {
		return nil, err
	}
	return cipher.NewGCMWithRandomNonce(block)
}

// encode returns the value for r, which was received at stored.
func (c *codec) encode(key []byte, r *wire.Reply, stored time.Time) ([]byte, error) {
	head := []byte{versionPlain}
	if c.seals != nil {
		head[0] = versionSealed
	}
	body := head
	if c.seals != nil {
		body = nil
	}
	body = binary.BigEndian.AppendUint64(body, uint64(stored.UnixNano()))
	body = binary.BigEndian.AppendUint16(body, uint16(len(key)))
	body = append(body, key...)
	// A query that gets everything, and OPT only if there are EDEs.
	q := wire.Query{Msg: r.Msg, QEnd: r.QEnd, RD: true, AD: true, EDNS: len(r.EDE) > 0}
	body = wire.AppendReply(body, &q, r, 0, 0)
	if c.seals == nil {
		return binary.BigEndian.AppendUint32(body, crc32.Checksum(body, castagnoli)), nil
	}
	aead, err := c.cipher(key)
	if err != nil {
		return nil, err
	}
	return aead.Seal(head, nil, body, head), nil
}

// open returns the body of a value.
func (c *codec) open(value, key []byte) ([]byte, error) {
	if len(value) < 1+sumLen+bodyHead {
		return nil, errShort
	}
	if c.seals == nil {
		end := len(value) - sumLen
		switch {
		case value[0] != versionPlain:
			return nil, errVersion
		case crc32.Checksum(value[:end], castagnoli) != binary.BigEndian.Uint32(value[end:]):
			return nil, errSum
		}
		return value[1:end], nil
	}
	if value[0] != versionSealed {
		return nil, errVersion
	}
	aead, err := c.cipher(key)
	if err != nil {
		return nil, err
	}
	body, err := aead.Open(nil, nil, value[1:], value[:1])
	if err != nil || len(body) < bodyHead {
		return nil, errSealed
	}
	return body, nil
}

// decode returns the answer for key in a value, which it may modify.
func (c *codec) decode(value, key []byte, now time.Time) (a Answer, err error) {
	body, err := c.open(value, key)
	if err != nil {
		return a, err
	}
	stored := int64(binary.BigEndian.Uint64(body))
	n := int(binary.BigEndian.Uint16(body[8:]))
	if bodyHead+n > len(body) || string(body[bodyHead:bodyHead+n]) != string(key) {
		return a, errKey
	}
	if stored < 0 || stored > now.Add(clockSlack).UnixNano() {
		return a, errFuture
	}
	if a.Reply, err = wire.ParseReply(body[bodyHead+n:]); err != nil {
		return Answer{}, err
	}
	if !answers(&a.Reply, key) {
		return Answer{}, errKey
	}
	a.Stored = time.Unix(0, stored)
	return a, nil
}

// answers reports whether the question of r is the one that key starts with.
func answers(r *wire.Reply, key []byte) bool {
	question := r.Msg[wire.HeaderLen:r.QEnd]
	n := len(question) - 4 // without type and class
	if n < 1 || len(key) <= len(question) || string(question[n:]) != string(key[n:len(question)]) {
		return false
	}
	for i, b := range question[:n] {
		if wire.Lower(b) != key[i] {
			return false
		}
	}
	return true
}
