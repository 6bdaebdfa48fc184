// SPDX-License-Identifier: Apache-2.0

package dnstest

import "time"

// Silent never answers.
func Silent() Handler {
	return HandlerFunc(func(*Request) Answer { return Answer{} })
}

// Delay answers like h, delayed by d.
func Delay(d time.Duration, h Handler) Handler {
	return modify(h, func(a *Answer) { a.Delay += d })
}

// Hold answers like h, once release is closed.
func Hold(release <-chan struct{}, h Handler) Handler {
	return modify(h, func(a *Answer) { a.Wait = release })
}

// ResetAll resets every connection at its first query.
func ResetAll() Handler {
	return HandlerFunc(func(*Request) Answer { return Answer{Then: Reset} })
}

// Garbage answers with a correctly framed message that is not DNS.
func Garbage() Handler {
	return HandlerFunc(func(*Request) Answer {
		return Answer{Msg: []byte("HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n")}
	})
}

// Short answers with a message that is shorter than a DNS header.
func Short() Handler {
	return HandlerFunc(func(*Request) Answer { return Answer{Msg: []byte{1, 2, 3}} })
}

// WrongID answers like h, but with another transaction ID.
func WrongID(h Handler) Handler {
	return modify(h, func(a *Answer) {
		if len(a.Msg) > 1 {
			a.Msg[0] ^= 0x55
		}
	})
}

// WrongQuestion answers like h, but with a different first label in the question.
func WrongQuestion(h Handler) Handler {
	return modify(h, func(a *Answer) {
		if len(a.Msg) > headerLen+1 && a.Msg[headerLen] > 0 {
			a.Msg[headerLen+1] = otherByte(a.Msg[headerLen+1])
		}
	})
}

// otherByte returns a letter that differs from b, ignoring case.
func otherByte(b byte) byte {
	if b == 'x' || b == 'X' {
		return 'y'
	}
	return 'x'
}

// TruncatedFrame sends the length of h's reply and half of the reply, then closes.
func TruncatedFrame(h Handler) Handler {
	return modify(h, func(a *Answer) {
		frame := Frame(a.Msg)
		a.Msg, a.Raw, a.Then = nil, frame[:len(frame)/2], Close
	})
}

// CloseAfter answers n queries of each connection like h and then closes it.
func CloseAfter(n int, h Handler) Handler {
	return HandlerFunc(func(r *Request) Answer {
		a := h.Answer(r)
		if r.N >= n {
			a.Then = Close
		}
		return a
	})
}

// Rcode answers with the response code and no records.
func Rcode(rcode uint8) Handler {
	return HandlerFunc(func(r *Request) Answer {
		q, ok := parse(r.Query)
		if !ok {
			return Answer{}
		}
		return Answer{Msg: newReply(&q).finish(rcode)}
	})
}

// RejectOPT answers queries with an OPT record like reject, and others like h.
func RejectOPT(reject, h Handler) Handler {
	return HandlerFunc(func(r *Request) Answer {
		if q, ok := parse(r.Query); ok && q.edns {
			return reject.Answer(r)
		}
		return h.Answer(r)
	})
}

// HeaderOnly answers with the response code and no question section, as servers do that
// could not or did not parse the question.
func HeaderOnly(rcode uint8) Handler {
	return HandlerFunc(func(r *Request) Answer {
		if len(r.Query) < headerLen {
			return Answer{}
		}
		msg := make([]byte, headerLen)
		copy(msg, r.Query[:2])
		msg[2], msg[3] = 0x80|r.Query[2]&0x79, 0x80|rcode&0xf
		return Answer{Msg: msg}
	})
}

// modify returns a handler that answers like h, with every answer modified by f.
func modify(h Handler, f func(*Answer)) Handler {
	return HandlerFunc(func(r *Request) Answer {
		a := h.Answer(r)
		f(&a)
		return a
	})
}
