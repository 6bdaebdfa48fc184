// SPDX-License-Identifier: Apache-2.0

package plain

import (
	"bytes"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"runtime/debug"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/miekg/dns"

	"sotto/forwarder/wire"
	"sotto/internal/dnstest"
)

// udpServer calls answer for every datagram until the test ends.
func udpServer(t *testing.T, answer func(query []byte, send func(msg []byte), from netip.AddrPort)) netip.AddrPort {
	t.Helper()
	pc, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(loopback, 0)))
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		buf := make([]byte, 65535)
		for {
			n, from, err := pc.ReadFromUDPAddrPort(buf)
			if err != nil {
				return
			}
			answer(bytes.Clone(buf[:n]), func(msg []byte) { _, _ = pc.WriteToUDPAddrPort(msg, from) }, from)
		}
	}()
	t.Cleanup(func() { _ = pc.Close(); <-done })
	return pc.LocalAddr().(*net.UDPAddr).AddrPort()
}

// variants returns messages that are not the reply to the query, by their fault.
func variants(query []byte) map[string][]byte {
	out := map[string][]byte{"empty": {}, "short": query[:11]}
	change := func(name string, f func(msg []byte)) {
		msg := bytes.Clone(query)
		msg[2] |= bitQR
		f(msg)
		out[name] = msg
	}
	change("ID", func(m []byte) { m[1] ^= 1 })
	change("name", func(m []byte) { m[13] ^= 1 })
	change("type", func(m []byte) { m[len(m)-3] ^= 1 })
	change("opcode", func(m []byte) { m[2] ^= 8 })
	change("query", func(m []byte) { m[2] &^= bitQR })
	change("two questions", func(m []byte) { m[5] = 2 })
	change("no question", func(m []byte) { m[5] = 0 })
	return out
}

// TestStraysAreIgnored: messages that do not match are ignored, and the reply after them is
// accepted.
func TestStraysAreIgnored(t *testing.T) {
	good := "\x00\x00the reply"
	at := udpServer(t, func(query []byte, send func([]byte), _ netip.AddrPort) {
		for _, msg := range variants(query) {
			send(msg)
		}
		query[2] |= bitQR
		send(append(query, good...))
	})
	query := ask(t, "abc.", dns.TypeA)
	reply, err := New(Config{}).Exchange(t.Context(), at, 0, query, false, inAWhile())
	if err != nil || !bytes.HasSuffix(reply, []byte(good)) {
		t.Fatalf("%q, %v", reply, err)
	}
	for name, msg := range variants(query) {
		if matches(query, msg) {
			t.Errorf("wrong %s: accepted as the reply", name)
		}
	}
}

// TestOffPath: a reply that is correct except for its source address is not accepted.
func TestOffPath(t *testing.T) {
	forger, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(loopback, 0)))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = forger.Close() }()
	at := udpServer(t, func(query []byte, send func([]byte), from netip.AddrPort) {
		query[2] |= bitQR
		_, _ = forger.WriteToUDPAddrPort(append(bytes.Clone(query), "forged"...), from)
		send(append(query, "right"...))
	})
	reply, err := New(Config{}).Exchange(t.Context(), at, 0, ask(t, "a.", dns.TypeA), false, inAWhile())
	if err != nil || !bytes.HasSuffix(reply, []byte("right")) {
		t.Errorf("%q, %v", reply, err)
	}
}

// TestFlood: an attacker gets few guesses at the ID. Guesses are logged, but not each time.
func TestFlood(t *testing.T) {
	at := udpServer(t, func(query []byte, send func([]byte), _ netip.AddrPort) {
		query[2] |= bitQR
		for i := range maxStrays + 1 {
			guess := bytes.Clone(query)
			wire.SetID(guess, wire.ID(query)+uint16(i)+1)
			send(guess)
		}
		send(query)
	})
	var log bytes.Buffer
	c := New(Config{Log: slog.New(slog.NewTextHandler(&log, nil))})
	for range 3 {
		_, err := c.Exchange(t.Context(), at, 0, ask(t, "a.", dns.TypeA), false, inAWhile())
		fails(t, err, wire.EDENetworkError, errStrays, errStrays.Error())
	}
	if n := strings.Count(log.String(), "nameserver="+at.String()); n != 1 {
		t.Errorf("logged %d times: %s", n, log.String())
	}
}

func TestRefused(t *testing.T) {
	l, pc, err := dnstest.ListenPlain(netip.AddrPortFrom(loopback, 0))
	if err != nil {
		t.Fatal(err)
	}
	at := l.Addr().(*net.TCPAddr).AddrPort()
	_, _ = l.Close(), pc.Close()
	both(t, func(t *testing.T, tcp bool) {
		started := time.Now()
		_, err = New(Config{}).Exchange(t.Context(), at, 0, ask(t, "a.", dns.TypeA), tcp, inAWhile())
		network := map[bool]string{false: "udp", true: "tcp"}[tcp]
		_, port, _ := net.SplitHostPort(at.String())
		fails(t, err, wire.EDENetworkError, syscall.ECONNREFUSED, "connection refused: nothing listens on port "+port+"/"+network+" there")
		if time.Since(started) > 20*time.Second {
			t.Error("the error came as late as a timeout")
		}
	})
}

// TestSilentConnect: connecting stops at the deadline. Here the server's queue of connections
// is full.
func TestSilentConnect(t *testing.T) {
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = syscall.Close(fd) }()
	if err := syscall.Bind(fd, &syscall.SockaddrInet4{Addr: loopback.As4()}); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Listen(fd, 0); err != nil {
		t.Fatal(err)
	}
	name, err := syscall.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	at := netip.AddrPortFrom(loopback, uint16(name.(*syscall.SockaddrInet4).Port))
	for range 8 {
		conn, err := net.DialTimeout("tcp", at.String(), 200*time.Millisecond)
		if err != nil {
			break
		}
		defer func() { _ = conn.Close() }()
	}
	started := time.Now()
	_, err = New(Config{}).Exchange(t.Context(), at, 0, ask(t, "a.", dns.TypeA), true, soon())
	var e *Error
	if !isTimeout(err) || !errors.As(err, &e) || e.Code != wire.EDENoReachableAuthority {
		t.Error(err)
	}
	if time.Since(started) > 30*time.Second {
		t.Error("only the kernel's timeout applied")
	}
}

// TestBadConnections: faults of servers on a connection are detected immediately, and have
// their own error.
func TestBadConnections(t *testing.T) {
	z := zone(t)
	const closed = "the nameserver closed the connection "
	for name, c := range map[string]struct {
		h     dnstest.Handler
		cause error
		text  string
	}{
		"reset":     {dnstest.ResetAll(), syscall.ECONNRESET, "the nameserver reset the connection"},
		"close":     {dnstest.CloseAfter(1, dnstest.Silent()), io.EOF, closed + "before the end of the answer"},
		"truncated": {dnstest.TruncatedFrame(z), io.ErrUnexpectedEOF, closed + "in the middle of a message"},
		"short":     {dnstest.Short(), errNotDNS, errNotDNS.Error() + ": a frame of 3 bytes"},
		"strays": {dnstest.HandlerFunc(func(r *dnstest.Request) dnstest.Answer {
			return dnstest.Answer{Raw: bytes.Repeat(dnstest.Frame(variants(r.Query)["ID"]), maxStrayFrames+1)}
		}), errStrays, errStrays.Error()},
	} {
		t.Run(name, func(t *testing.T) {
			s := serve(t, loopback, c.h)
			_, err := New(Config{}).Exchange(t.Context(), s.Addr(), 0, ask(t, "a.", dns.TypeA), true, inAWhile())
			fails(t, err, wire.EDENetworkError, c.cause, c.text)
			err = New(Config{}).Transfer(t.Context(), s.Addr(), ask(t, "a.", dns.TypeAXFR), inAWhile(), nil)
			fails(t, err, wire.EDENetworkError, c.cause, c.text)
		})
	}
	s := serve(t, loopback, dnstest.HandlerFunc(func(r *dnstest.Request) dnstest.Answer {
		a := z.Answer(r)
		a.Raw, a.Msg = append(dnstest.Frame(variants(r.Query)["name"]), dnstest.Frame(a.Msg)...), nil
		return a
	}))
	if _, err := New(Config{}).Exchange(t.Context(), s.Addr(), 0, ask(t, "abc.", dns.TypeA), true, inAWhile()); err != nil {
		t.Errorf("a reply after another message: %v", err)
	}
}

// TestSocketsAreClosed: sockets are closed with their queries, however those end.
func TestSocketsAreClosed(t *testing.T) {
	s := serve(t, loopback, dnstest.ResetAll())
	silent := serve(t, loopback, dnstest.Silent())
	c := New(Config{})
	defer debug.SetGCPercent(debug.SetGCPercent(-1)) // it would close forgotten files
	before := descriptors(t)
	for range 20 {
		_, _ = c.Exchange(t.Context(), s.Addr(), 0, ask(t, "a.", dns.TypeA), true, inAWhile())
		_, _ = c.Exchange(t.Context(), silent.Addr(), 0, ask(t, "a.", dns.TypeA), false, time.Now().Add(5*time.Millisecond))
		_, _ = c.Exchange(t.Context(), silent.Addr(), 0, ask(t, "a.", dns.TypeA), true, time.Now().Add(5*time.Millisecond))
		_ = c.Transfer(t.Context(), silent.Addr(), ask(t, "a.", dns.TypeAXFR), time.Now().Add(5*time.Millisecond), nil)
	}
	for end := inAWhile(); descriptors(t) > before; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) { // the server closes its own later
			t.Fatalf("%d descriptors, %d before", descriptors(t), before)
		}
	}
}

func descriptors(t *testing.T) int {
	t.Helper()
	fds, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Skip(err)
	}
	return len(fds)
}
