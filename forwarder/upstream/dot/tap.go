// SPDX-License-Identifier: Apache-2.0

package dot

import (
	"net"
	"net/netip"
	"time"

	"sotto/forwarder/tap"
	"sotto/forwarder/upstream/transport"
)

// connTap shows the messages of one connection to a tap. A nil *connTap does nothing.
type connTap struct {
	f             tap.Func
	local, remote netip.AddrPort
}

// newConnTap returns nil if f is nil.
func newConnTap(f tap.Func, c net.Conn) *connTap {
	if f == nil {
		return nil
	}
	return &connTap{f, addrPort(c.LocalAddr()), addrPort(c.RemoteAddr())}
}

func addrPort(a net.Addr) netip.AddrPort {
	tcp, ok := a.(*net.TCPAddr)
	if !ok {
		return netip.AddrPort{}
	}
	ap := tcp.AddrPort()
	return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
}

// query shows a query as it is sent.
func (t *connTap) query(msg []byte, now time.Time) {
	if t != nil {
		t.f(tap.Message{Kind: tap.ForwarderQuery, Proto: tap.TLS, Querier: t.local, Responder: t.remote, Queried: now, Data: msg})
	}
}

// reply shows a reply as it was received. sent is when its query was sent, in ticks.
func (t *connTap) reply(msg []byte, sent int64, now time.Time) {
	if t != nil {
		t.f(tap.Message{
			Kind: tap.ForwarderResponse, Proto: tap.TLS, Querier: t.local, Responder: t.remote,
			Queried: now.Add(time.Duration(sent - transport.Ticks(now))), Replied: now, Data: msg,
		})
	}
}
