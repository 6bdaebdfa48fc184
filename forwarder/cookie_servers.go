// SPDX-License-Identifier: Apache-2.0

package forwarder

import (
	"net/netip"
	"sync"
	"time"

	"sotto/forwarder/wire"
)

const (
	// cookieServerTime is how long after its last cookie a nameserver is expected to send one.
	cookieServerTime = time.Hour

	// maxCookieServers limits the nameservers that are remembered. Few rules use more.
	maxCookieServers = 1024
)

// cookieServers remembers the nameservers that send server cookies. A reply of such a nameserver
// without one may be forged (RFC 7873 §5.3).
type cookieServers struct {
	mu    sync.Mutex
	until map[netip.AddrPort]time.Time
}

func (c *cookieServers) add(at netip.AddrPort, now time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.until == nil {
		c.until = make(map[netip.AddrPort]time.Time)
	}
	if _, ok := c.until[at]; !ok && len(c.until) >= maxCookieServers {
		for other := range c.until {
			delete(c.until, other)
			break
		}
	}
	c.until[at] = now.Add(cookieServerTime)
}

func (c *cookieServers) has(at netip.AddrPort, now time.Time) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return now.Before(c.until[at])
}

// usesCookies reports whether the client of p may discard a reply without a cookie. A signed reply
// cannot be changed, and needs none.
func usesCookies(p *pendingQuery) bool {
	return p.q.HasCookie() && p.q.Opcode == wire.OpcodeQuery && !p.q.Signed
}

// lacksCookie reports whether the reply of a nameserver to p needs a cookie of Sotto: the client
// expects one from the nameserver's address, since it gets one with every other answer.
//
// A cookie of the nameserver itself stays: the client sends it back, and BADCOOKIE works. Where a
// forged reply could arrive, that is, from a nameserver that is not on this machine, a reply
// without the cookie that the nameserver usually sends gets none, so that the client discards it.
func (fs *flights) lacksCookie(p *pendingQuery, reply []byte) bool {
	found, valid := p.q.CookieIn(reply)
	remote, now := p.route.Action == Plain, time.Now()
	if remote && valid {
		fs.cookieServers.add(p.origin.Addr, now)
	}
	if found || wire.Rcode(reply) == wire.RcodeBadCookie {
		return false
	}
	return !remote || !fs.cookieServers.has(p.origin.Addr, now)
}
