// SPDX-License-Identifier: Apache-2.0

package forwarder

import (
	"fmt"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/miekg/dns"

	"sotto/internal/ednstest"
)

// askRaw sends a message and returns the bytes of the reply.
func askRaw(t *testing.T, proto string, at netip.AddrPort, query []byte) []byte {
	t.Helper()
	c, err := net.Dial(proto, at.String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	dc := &dns.Conn{Conn: c, UDPSize: dns.MaxMsgSize}
	_ = dc.SetDeadline(time.Now().Add(10 * time.Second))
	if _, err := dc.Write(query); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, dns.MaxMsgSize)
	n, err := dc.Read(b)
	if err != nil {
		t.Fatalf("%s over %s: %v", fmt.Sprintf("%x", query), proto, err)
	}
	return b[:n]
}

// TestEDNSCompliance sends the queries of ISC's EDNS compliance tester.
func TestEDNSCompliance(t *testing.T) {
	at := start(t, Config{Upstream: newZoneUpstream(t), Cache: newCache(t)}, "127.0.0.1:0")
	for _, q := range ednstest.Questions {
		for _, proto := range []string{"udp", "tcp"} {
			reply := askRaw(t, proto, at, q.Query())
			if err := q.Check(reply, proto == "udp"); err != nil {
				t.Errorf("%s over %s: %v in % x", q.Name, proto, err, reply)
			}
		}
	}
}
