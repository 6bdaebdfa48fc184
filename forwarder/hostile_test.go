// SPDX-License-Identifier: Apache-2.0

package forwarder

import (
	"bufio"
	"context"
	"encoding/binary"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miekg/dns"

	"sotto/forwarder/wire"
)

// hostileMessages are the committed seeds of the walker's fuzz targets, and
// mutations of each. The random numbers are the same in every run.
func hostileMessages(t *testing.T, mutations int) [][]byte {
	t.Helper()
	files, err := filepath.Glob("wire/testdata/fuzz/*/*")
	if err != nil || len(files) < 40 {
		t.Fatalf("%d seeds, %v", len(files), err)
	}
	rng := rand.New(rand.NewPCG(1, 2))
	var all [][]byte
	for _, file := range files {
		seed := readSeed(t, file)
		all = append(all, seed)
		for range mutations {
			all = append(all, mutate(rng, seed))
		}
	}
	for i, m := range all {
		if len(m) >= 2 {
			wire.SetID(m, uint16(i)) // tells replies apart
		}
	}
	return all
}

// readSeed reads a file of the go command's fuzz corpus with one []byte.
func readSeed(t *testing.T, file string) []byte {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	_, value, _ := strings.Cut(strings.TrimSpace(string(text)), "\n")
	quoted := strings.TrimSuffix(strings.TrimPrefix(value, "[]byte("), ")")
	s, err := strconv.Unquote(quoted)
	if err != nil {
		t.Fatalf("%s: %v", file, err)
	}
	return []byte(s)
}

// mutate changes a few bytes, mostly of the header, or the length.
func mutate(rng *rand.Rand, seed []byte) []byte {
	b := append([]byte(nil), seed...)
	if len(b) == 0 {
		return b
	}
	if len(b) > 2 && rng.IntN(2) == 0 {
		b[2] &^= 0x80 // most seeds of replies as queries
	}
	for range rng.IntN(4) {
		at := rng.IntN(len(b))
		if rng.IntN(2) == 0 {
			at = rng.IntN(min(len(b), wire.HeaderLen))
		}
		b[at] = byte(rng.Uint32())
	}
	switch rng.IntN(6) {
	case 0:
		b = b[:rng.IntN(len(b)+1)]
	case 1:
		b = append(b, make([]byte, rng.IntN(2000))...)
	}
	return b
}

// hostileExchanger answers one question in eight well, and the rest with a
// mutation of the answer.
func hostileExchanger(t *testing.T) Exchanger {
	good := newZoneUpstream(t)
	var asked atomic.Uint64
	return exchangeFunc(func(ctx context.Context, q []byte) ([]byte, error) {
		reply, err := good.answer(ctx, q)
		if n := asked.Add(1); err == nil && n%8 != 0 {
			reply = mutate(rand.New(rand.NewPCG(3, n)), reply)
			if len(reply) > 2 {
				reply[2] |= 0x80
			}
		}
		return reply, err
	})
}

// TestHostile sends every seed and its mutations to real sockets. What comes back
// belongs to what was sent and is well-formed; afterwards a good query is
// answered as before, and nothing is left over.
func TestHostile(t *testing.T) {
	for what, up := range map[string]Exchanger{"clients": newZoneUpstream(t), "clients and upstream": hostileExchanger(t)} {
		t.Run(what, func(t *testing.T) {
			messages := hostileMessages(t, 30)
			f, at := startForwarder(t, Config{Upstream: up, Cache: newCache(t), Timeout: 500 * time.Millisecond}, "127.0.0.1:0")
			before := runtime.NumGoroutine()
			if n := sendUDP(t, at, messages); n < len(messages)/4 {
				t.Errorf("over UDP %d replies to %d messages", n, len(messages))
			}
			if n := sendTCP(t, at, messages); n < len(messages)/4 {
				t.Errorf("over TCP %d replies to %d messages", n, len(messages))
			}
			for _, proto := range []string{"udp", "tcp"} {
				if r := ask(t, proto, at, question("_dns.resolver.arpa", dns.TypeSVCB)); r.Rcode != dns.RcodeSuccess {
					t.Errorf("afterwards, over %s: %v", proto, r)
				}
			}
			waitFor(t, "nothing to be in flight", func() bool {
				return f.flights.waiting.taken.Load() == 0 && f.flights.misses.taken.Load() == 0 && f.unread.Load() == 0
			})
			const own = 10 // the listeners', which may have started late
			waitFor(t, "goroutines to end", func() bool { return runtime.NumGoroutine() <= before+own })
		})
	}
}

// sendUDP sends each message, and takes what comes meanwhile.
func sendUDP(t *testing.T, at netip.AddrPort, messages [][]byte) (replies int) {
	t.Helper()
	c, err := net.Dial("udp", at.String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	buf := make([]byte, 65536)
	for _, m := range messages {
		if _, err := c.Write(m); err != nil {
			t.Fatal(err)
		}
		// Perhaps nothing comes; what is late is taken with the next one's.
		c.SetReadDeadline(time.Now().Add(time.Millisecond))
		if n, err := c.Read(buf); err == nil {
			replies++
			checkHostile(t, messages, buf[:n], wire.UDPSize)
		}
	}
	return replies
}

// sendTCP sends the messages in frames, a few a connection. The server closes it
// at the first that is no query.
func sendTCP(t *testing.T, at netip.AddrPort, messages [][]byte) (replies int) {
	t.Helper()
	for few := range slices.Chunk(messages, 8) {
		c := redial(t, at.String()).Conn.(*net.TCPConn)
		var frames []byte
		for _, m := range few {
			frames = append(binary.BigEndian.AppendUint16(frames, uint16(len(m))), m...)
		}
		if _, err := c.Write(frames); err == nil {
			_ = c.CloseWrite()
		}
		r := bufio.NewReader(c)
		for b, err := readFrame(r); err == nil; b, err = readFrame(r) {
			replies++
			checkHostile(t, messages, b[2:], wire.MaxMessage)
		}
		c.Close()
	}
	return replies
}

// checkHostile checks one reply; its ID tells which message it is to.
func checkHostile(t *testing.T, messages [][]byte, reply []byte, limit int) {
	t.Helper()
	if len(reply) < wire.HeaderLen || len(reply) > limit || reply[2]&0x80 == 0 {
		t.Fatalf("no reply: %x", reply)
	}
	n := int(wire.ID(reply))
	if n >= len(messages) {
		t.Fatalf("a reply to nobody: %x", reply)
	}
	if reply[5] == 1 && !wire.SameQuestion(messages[n], reply) {
		t.Errorf("%x was answered with %x", messages[n], reply)
	}
	if err := new(dns.Msg).Unpack(reply); err != nil && wire.Rcode(reply) != wire.RcodeSuccess {
		t.Errorf("%x was answered with %x, which cannot be read: %v", messages[n], reply, err)
	}
}
