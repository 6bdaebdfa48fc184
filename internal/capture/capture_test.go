// SPDX-License-Identifier: Apache-2.0

package capture_test

import (
	"context"
	"fmt"
	"net"
	"testing"
	"time"

	"sotto/internal/capture"
	"sotto/internal/netlab"
	"sotto/internal/netlab/labtest"
)

// query returns a query for www.example.com A with the given ID.
func query(id byte) []byte {
	return append([]byte{0, id, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0}, "\x03www\x07example\x03com\x00\x00\x01\x00\x01"...)
}

func dial(t *testing.T, host *netlab.Host, network, addr string) net.Conn {
	t.Helper()
	var c net.Conn
	if err := host.Do(func() (err error) { c, err = net.Dial(network, addr); return err }); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// TestCaptureIsComplete checks that every packet between Start and Stop is in the
// capture, including the first and the last.
func TestCaptureIsComplete(t *testing.T) {
	_, host, lan := labtest.LAN(t)
	for _, server := range []string{"8.8.8.8:53", "[2001:db8::53]:53"} {
		c := dial(t, host, "udp", server)
		for round := range 20 {
			run, err := capture.Start(lan.NS, netlab.LANIf)
			if err != nil {
				t.Fatal(err)
			}
			for i := range 5 {
				// The port is closed: the write after an ICMP error fails and is
				// retried.
				for range 3 {
					if _, err = c.Write(query(byte(i))); err == nil {
						break
					}
				}
				if err != nil {
					t.Fatal(err)
				}
			}
			packets, err := run.Stop()
			if err != nil {
				t.Fatal(err)
			}
			plain := capture.Plain(packets)
			if len(plain) != 5 {
				t.Fatalf("%s, round %d: %d packets to port 53, want 5: %v", server, round, len(plain), packets)
			}
			for _, p := range plain {
				if p.Question != "www.example.com. A" || p.Response || p.Dst.String() != server {
					t.Errorf("captured %v", p)
				}
			}
		}
	}
}

func TestCaptureSeesOnlyItsInterface(t *testing.T) {
	_, host, lan := labtest.LAN(t)
	run, err := capture.Start(lan.NS, "lo")
	if err != nil {
		t.Fatal(err)
	}
	all, err := capture.Start(lan.NS, "")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := dial(t, host, "udp", "8.8.8.8:53").Write(query(1)); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), labtest.Patience(10*time.Second))
	defer cancel()
	if err := all.Wait(ctx, func(p []capture.Packet) bool { return len(capture.Plain(p)) > 0 }); err != nil {
		t.Error(err)
	}
	for range 2 {
		if packets, err := run.Stop(); err != nil || len(packets) > 0 {
			t.Errorf("on lo: %v, %v; want nothing", packets, err)
		}
	}
	if _, err := all.Stop(); err != nil {
		t.Error(err)
	}
	if _, err := capture.Start(lan.NS, "no-such-link"); err == nil {
		t.Error("a capture started on a link that does not exist")
	}
}

// TestCaptureReadsTCP checks that a plain query over TCP and a TLS record are distinguished.
func TestCaptureReadsTCP(t *testing.T) {
	_, host, lan := labtest.LAN(t)
	run, err := capture.Start(lan.NS, netlab.LANIf)
	if err != nil {
		t.Fatal(err)
	}
	for port, payload := range map[int]string{
		53:  "\x00\x21" + string(query(7)),
		853: "\x16\x03\x01\x00\x05hello",
	} {
		var l net.Listener
		addr := fmt.Sprintf("1.1.1.1:%d", port)
		if err := lan.Do(func() (err error) { l, err = net.Listen("tcp", addr); return err }); err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		if _, err := dial(t, host, "tcp", addr).Write([]byte(payload)); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), labtest.Patience(10*time.Second))
	defer cancel()
	err = run.Wait(ctx, func(packets []capture.Packet) bool {
		queried, record := false, false
		for _, p := range packets {
			queried = queried || p.Question == "www.example.com. A" && p.Dst.Port() == 53
			record = record || p.Record == 22 && p.Dst.Port() == 853
		}
		return queried && record
	})
	packets, stopErr := run.Stop()
	if err != nil || stopErr != nil {
		t.Errorf("%v, %v: %v", err, stopErr, packets)
	}
	if n := len(capture.Port(packets, 853)); n == 0 || len(capture.Plain(packets))+n != len(capture.Port(packets, 53, 853)) {
		t.Errorf("%d of %d packets are on port 853", n, len(packets))
	}
}
