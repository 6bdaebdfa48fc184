// SPDX-License-Identifier: Apache-2.0

package dnstest

import "time"

// Silent never answers.
func Silent() Handler {
	return HandlerFunc(func(*Request) Answer { return Answer{} })
}

// Delay answers like h, but d later.
func Delay(d time.Duration, h Handler) Handler {
	return change(h, func(a *Answer) { a.Delay += d })
}

// Hold answers like h, but not before release is closed.
func Hold(release <-chan struct{}, h Handler) Handler {
	return change(h, func(a *Answer) { a.Wait = release })
}

// ResetAll resets every connection at its first query.
func ResetAll() Handler {
	return HandlerFunc(func(*Request) Answer { return Answer{Then: Reset} })
}

// Garbage answers with a well-framed message that is no DNS at all.
func Garbage() Handler {
	return HandlerFunc(func(*Request) Answer {
		return Answer{Msg: []byte("HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n")}
	})
}

// Short answers with a frame that is shorter than a DNS header.
func Short() Handler {
	return HandlerFunc(func(*Request) Answer { return Answer{Msg: []byte{1, 2, 3}} })
}

// WrongID answers like h, but with another transaction ID.
func WrongID(h Handler) Handler {
	return change(h, func(a *Answer) {
		if len(a.Msg) > 1 {
			a.Msg[0] ^= 0x55
		}
	})
}

// WrongQuestion answers like h, but to a question whose first label differs.
func WrongQuestion(h Handler) Handler {
	return change(h, func(a *Answer) {
		if len(a.Msg) > headerLen+1 && a.Msg[headerLen] > 0 {
			a.Msg[headerLen+1] = otherByte(a.Msg[headerLen+1])
		}
	})
}

// otherByte differs from b also when case is ignored.
func otherByte(b byte) byte {
	if b == 'x' || b == 'X' {
		return 'y'
	}
	return 'x'
}

// TruncatedFrame announces the whole of h's reply, sends half of it, and closes.
func TruncatedFrame(h Handler) Handler {
	return change(h, func(a *Answer) {
		frame := Frame(a.Msg)
		a.Msg, a.Raw, a.Then = nil, frame[:len(frame)/2], Close
	})
}

// CloseAfter answers n queries of each connection like h, then closes it.
func CloseAfter(n int, h Handler) Handler {
	return HandlerFunc(func(r *Request) Answer {
		a := h.Answer(r)
		if r.N >= n {
			a.Then = Close
		}
		return a
	})
}

// Rcode answers with an empty reply of that response code.
func Rcode(rcode uint8) Handler {
	return HandlerFunc(func(r *Request) Answer {
		q, ok := parse(r.Query)
		if !ok {
			return Answer{}
		}
		return Answer{Msg: newReply(&q).finish(rcode)}
	})
}

// HeaderOnly answers with that response code and no question, as servers do
// that could not or would not read it.
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

// change returns a handler that answers like h and then changes the answer.
func change(h Handler, with func(*Answer)) Handler {
	return HandlerFunc(func(r *Request) Answer {
		a := h.Answer(r)
		with(&a)
		return a
	})
}
