// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"crypto/subtle"
	"encoding/binary"
	"net/netip"
	"time"
)

// Lengths of a COOKIE option's parts in bytes (RFC 7873 §4, RFC 9018 §4).
const (
	clientCookieLen    = 8
	minServerCookieLen = 8
	maxServerCookieLen = 32
	serverCookieLen    = 16
	cookieLen          = clientCookieLen + serverCookieLen

	cookieVersion = 1
)

// Validity of a server cookie before and after its time (RFC 9018 §4.3).
const (
	cookieMaxAge  = time.Hour
	cookieMaxSkew = 5 * time.Minute
)

// CookieSecret is the key of server cookies.
type CookieSecret [16]byte

// HasCookie reports whether the query has a COOKIE option.
func (q *Query) HasCookie() bool { return q.cookieEnd != 0 }

// readCookie records the place of a COOKIE option's value, which ends at end. Further ones
// are ignored (RFC 7873 §5.2). It reports false if the length is wrong.
func (q *Query) readCookie(value []byte, end int) bool {
	if q.cookieEnd != 0 {
		return true
	}
	if n := len(value) - clientCookieLen; n != 0 && (n < minServerCookieLen || n > maxServerCookieLen) {
		return false
	}
	q.cookieAt, q.cookieEnd = end-len(value), end
	return true
}

// SetCookie gives the reply to a query with a COOKIE option a COOKIE option: the client's
// part, and an interoperable server cookie (RFC 9018). It reports whether the server cookie
// that the client sent is valid, or was not sent. q.Msg must still be the whole query.
func (q *Query) SetCookie(secret *CookieSecret, client netip.Addr, now time.Time) (valid bool) {
	sent := q.Msg[q.cookieAt:q.cookieEnd]
	copy(q.cookie[:], sent[:clientCookieLen])
	q.cookie[clientCookieLen] = cookieVersion
	binary.BigEndian.PutUint32(q.cookie[clientCookieLen+4:], uint32(now.Unix()))
	secret.sign(q.cookie[:], client)
	q.reply = true
	switch len(sent) {
	case clientCookieLen:
		return true
	case cookieLen:
		return secret.verify(sent, client, now)
	}
	return false
}

// sign writes the last eight bytes of a cookie, a hash of the rest and the client's address.
func (s *CookieSecret) sign(cookie []byte, client netip.Addr) {
	const signed = cookieLen - 8
	var room [signed + 16]byte
	copy(room[:], cookie[:signed])
	end := signed
	if client = client.Unmap(); client.Is4() {
		a := client.As4()
		end += copy(room[signed:], a[:])
	} else {
		a := client.As16()
		end += copy(room[signed:], a[:])
	}
	binary.LittleEndian.PutUint64(cookie[signed:], sipHash(s, room[:end]))
}

// verify reports whether a cookie of client and server part was made for that client, and
// has not expired. Times are compared in serial number arithmetic (RFC 1982).
func (s *CookieSecret) verify(cookie []byte, client netip.Addr, now time.Time) bool {
	var want [cookieLen]byte
	copy(want[:], cookie)
	s.sign(want[:], client)
	age := time.Duration(int32(uint32(now.Unix())-binary.BigEndian.Uint32(cookie[clientCookieLen+4:]))) * time.Second
	return cookie[clientCookieLen] == cookieVersion && -cookieMaxSkew <= age && age <= cookieMaxAge &&
		subtle.ConstantTimeCompare(want[:], cookie) == 1
}

// cookieSize returns the length of the COOKIE option in the reply to q.
func (q *Query) cookieSize() int {
	if !q.reply {
		return 0
	}
	return optionLen + cookieLen
}

func appendCookie(dst []byte, q *Query) []byte {
	if !q.reply {
		return dst
	}
	return append(append(dst, 0, optCookie, 0, cookieLen), q.cookie[:]...)
}
