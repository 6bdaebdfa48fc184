// SPDX-License-Identifier: Apache-2.0

package dnstest

import (
	"errors"
	"net"
	"time"
)

// serveUDP answers the queries of one socket until it is closed.
func (s *Server) serveUDP(pc net.PacketConn) error {
	buf := make([]byte, 65535)
	for {
		n, from, err := pc.ReadFrom(buf)
		switch {
		case errors.Is(err, net.ErrClosed):
			return nil
		case err != nil:
			continue // an ICMP error about an earlier reply
		}
		r := &Request{
			Query: buf[:n], Transport: UDP,
			Remote: addrPort(from), Local: addrPort(pc.LocalAddr()),
		}
		s.dispatchUDP(s.handle(r), pc, from)
	}
}

// dispatchUDP sends an answer after its delay.
func (s *Server) dispatchUDP(a Answer, pc net.PacketConn, to net.Addr) {
	if a.Msg == nil && a.Raw == nil {
		return
	}
	send := func() {
		if a.Msg != nil {
			_, _ = pc.WriteTo(a.Msg, to)
		}
		if a.Raw != nil {
			_, _ = pc.WriteTo(a.Raw, to)
		}
	}
	switch {
	case a.Wait != nil:
		go func() {
			select {
			case <-a.Wait:
				time.Sleep(a.Delay)
				send()
			case <-s.done:
			}
		}()
	case a.Delay > 0:
		time.AfterFunc(a.Delay, send)
	default:
		send()
	}
}
