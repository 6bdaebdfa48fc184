// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"log/slog"
	"net"
	"syscall"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// TestPlainSocketsEnd: a change of the network, and closing the resolver, end the reuse of
// sockets for plain DNS.
func TestPlainSocketsEnd(t *testing.T) {
	server, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = server.Close() }()
	ports := make(chan uint16, 1)
	go func() {
		buf := make([]byte, 512)
		for {
			n, from, err := server.ReadFromUDPAddrPort(buf)
			if err != nil {
				return
			}
			ports <- from.Port()
			buf[2] |= 0x80
			_, _ = server.WriteToUDPAddrPort(buf[:n], from)
		}
	}()
	p, err := planText(group, nil)
	if err != nil {
		t.Fatal(err)
	}
	hooks := sealHooks{control: func(string, string, syscall.RawConn) error { return nil }}
	r, err := newResolver(t.Context(), p, hooks, nil, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	query, err := new(dns.Msg).SetQuestion("a.example.", dns.TypeA).Pack()
	if err != nil {
		t.Fatal(err)
	}
	port := func() uint16 {
		at := server.LocalAddr().(*net.UDPAddr).AddrPort()
		if _, err := r.plain.Exchange(t.Context(), at, 1, query, false, time.Now().Add(30*time.Second)); err != nil {
			t.Fatal(err)
		}
		return <-ports
	}
	first := port()
	r.NetworkChanged()
	second := port()
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	third, fourth := port(), port()
	if first == second || second == third || third == fourth {
		t.Errorf("queries came from %d, %d, %d, %d", first, second, third, fourth)
	}
}
