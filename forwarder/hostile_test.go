// SPDX-License-Identifier: Apache-2.0

package forwarder

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miekg/dns"

	"sotto/forwarder/wire"
)

// hostileMessages returns the committed seeds of package wire's fuzz targets and mutations
// of each. The random numbers are the same in every run.
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
			wire.SetID(m, uint16(i)) // distinguishes replies
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
		b[2] &^= 0x80 // turns most seeds that are replies into queries
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

// noReply and anyCode stand for a response code in [expected].
const (
	noReply = -1
	anyCode = -2 // policy or the upstream decides
)

// expected returns the response code that a message is answered with. It relies on package
// wire, which has its own tests.
func expected(msg []byte) int {
	switch _, err := wire.ParseQuery(msg); {
	case errors.Is(err, wire.ErrIgnore):
		return noReply
	case errors.Is(err, wire.ErrFormat):
		return int(wire.RcodeFormErr)
	case errors.Is(err, wire.ErrOpcode):
		return int(wire.RcodeNotImp)
	case errors.Is(err, wire.ErrVersion):
		return int(wire.RcodeBadVers)
	}
	return anyCode
}

// hostileUpstream answers one query in eight correctly, and the others with a mutation of
// the answer. It records its answers.
type hostileUpstream struct {
	zone   *zoneUpstream
	honest atomic.Bool // answer all queries correctly

	mu       sync.Mutex
	asked    uint64
	answered map[string]bool // questions of replies, with their answers
	good     map[string]bool // questions that were answered correctly
}

func newHostileUpstream(t *testing.T, honest bool) *hostileUpstream {
	u := &hostileUpstream{zone: newZoneUpstream(t), answered: map[string]bool{}, good: map[string]bool{}}
	u.honest.Store(honest)
	return u
}

func (u *hostileUpstream) Exchange(ctx context.Context, query []byte, until time.Time) ([]byte, error) {
	reply, err := u.zone.Exchange(ctx, query, until)
	if err != nil {
		return reply, err
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	u.asked++
	if u.honest.Load() || u.asked%8 == 0 {
		u.good[strings.ToLower(questionText(query))] = true
	} else {
		reply = mutate(rand.New(rand.NewPCG(3, u.asked)), reply)
		if len(reply) > 2 {
			reply[2] |= 0x80
		}
	}
	if text, ok := answersText(reply); ok {
		u.answered[text] = true
	}
	return reply, nil
}

// questionText returns the question of a message, or "".
func questionText(msg []byte) string {
	m := new(dns.Msg)
	if err := m.Unpack(msg); err != nil || len(m.Question) != 1 {
		return ""
	}
	return m.Question[0].String()
}

// answersText returns the question and the answers of a reply, without TTLs and spelling,
// which Sotto changes. It reports false for a reply without answers, a truncated one, and
// one that the library cannot parse.
func answersText(reply []byte) (string, bool) {
	m := new(dns.Msg)
	if err := m.Unpack(reply); err != nil || len(m.Question) != 1 || len(m.Answer) == 0 || m.Truncated {
		return "", false
	}
	text := m.Question[0].String()
	for _, rr := range m.Answer {
		rr.Header().Ttl = 0
		text += "\n" + rr.String()
	}
	return strings.ToLower(text), true
}

// hostileTest sends messages and checks the replies.
type hostileTest struct {
	t        *testing.T
	at       netip.AddrPort
	up       *hostileUpstream
	messages [][]byte
}

// TestHostile sends every seed and its mutations to real sockets. Each gets its own reply or
// none, and only answers that the upstream gave to its question. Afterwards good queries are
// answered as before, and no resources are left in use.
func TestHostile(t *testing.T) {
	for what, honest := range map[string]bool{"clients": true, "clients and upstream": false} {
		t.Run(what, func(t *testing.T) {
			up := newHostileUpstream(t, true)
			f, at := startForwarder(t, Config{Upstream: up, Cache: newCache(t)}, "127.0.0.1:0")
			h := &hostileTest{t: t, at: at, up: up, messages: hostileMessages(t, 30)}
			h.good("before")
			before := goroutines(f)
			up.honest.Store(honest)
			h.udp()
			h.tcp()
			h.fresh()
			up.honest.Store(true)
			h.good("afterwards")
			waitFor(t, "nothing to be in flight", func() bool {
				s := f.Stats()
				return s.Misses == 0 && s.Waiting == 0 && s.Sources == 0 && s.Conns == 0 && f.unread.Load() == 0
			})
			waitFor(t, "goroutines to exit", func() bool { return goroutines(f) <= before })
		})
	}
}

// goroutines returns the number of goroutines without the pool's, of which idle ones remain
// for a while.
func goroutines(f *Forwarder) int { return runtime.NumGoroutine() - f.flights.pool.Size() }

// good queries a name that is not cached and expects the upstream's answer.
func (h *hostileTest) good(when string) {
	h.t.Helper()
	for _, proto := range []string{"udp", "tcp"} {
		r := ask(h.t, proto, h.at, question(when+"-"+proto+".example", dns.TypeA))
		if a, ok := first(r.Answer).(*dns.A); r.Rcode != dns.RcodeSuccess || !ok || a.A.String() != "192.0.2.1" {
			h.t.Errorf("%s, over %s: %v", when, proto, r)
		}
	}
}

func first(rrs []dns.RR) dns.RR {
	if len(rrs) == 0 {
		return nil
	}
	return rrs[0]
}

// udp sends each message and waits for its reply if it expects one.
func (h *hostileTest) udp() {
	h.t.Helper()
	c, err := net.Dial("udp", h.at.String())
	if err != nil {
		h.t.Fatal(err)
	}
	defer c.Close()
	buf := make([]byte, 65536)
	for i, m := range h.messages {
		if _, err := c.Write(m); err != nil {
			h.t.Fatal(err)
		}
		if expected(m) == noReply {
			continue // a reply would be read as that to the next message
		}
		_ = c.SetReadDeadline(time.Now().Add(10 * time.Second))
		n, err := c.Read(buf)
		if err != nil {
			h.t.Fatalf("no reply over UDP to %x: %v", m, err)
		}
		if got := h.check(buf[:n], wire.UDPSize); got != i {
			h.t.Fatalf("message %d got the reply to %d: %x", i, got, buf[:n])
		}
	}
	_ = c.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
	if n, err := c.Read(buf); err == nil {
		h.t.Errorf("one reply too many over UDP: %x", buf[:n])
	}
}

// tcp sends the messages in frames, a few per connection. The server closes the connection
// at the first that is not a query, and answers those before.
func (h *hostileTest) tcp() {
	h.t.Helper()
	for start := 0; start < len(h.messages); start += 8 {
		few := h.messages[start:min(start+8, len(h.messages))]
		c := redial(h.t, h.at.String()).Conn.(*net.TCPConn)
		var frames []byte
		var want, got []int
		open := true
		for i, m := range few {
			frames = wire.AppendFrame(frames, m)
			if open = open && expected(m) != noReply; open {
				want = append(want, start+i)
			}
		}
		if _, err := c.Write(frames); err == nil {
			_ = c.CloseWrite()
		}
		r := bufio.NewReader(c)
		for b, err := readFrame(r); err == nil; b, err = readFrame(r) {
			got = append(got, h.check(b[2:], wire.MaxMessage))
		}
		c.Close()
		if slices.Sort(got); !slices.Equal(got, want) {
			h.t.Errorf("over TCP %v were answered, want %v", got, want)
		}
	}
}

// fresh queries names that are not cached, so that the upstream is used each time, and then
// again when they may be cached.
func (h *hostileTest) fresh() {
	h.t.Helper()
	refused := 0
	for i := range 1000 {
		q := question(fmt.Sprintf("fresh%d.example", i), dns.TypeA)
		r := ask(h.t, "udp", h.at, q)
		h.up.mu.Lock()
		good := h.up.good[strings.ToLower(q.Question[0].String())]
		h.up.mu.Unlock()
		for _, r := range []*dns.Msg{r, ask(h.t, "udp", h.at, q)} {
			b, err := r.Pack()
			if err != nil || len(r.Question) != 1 || !strings.EqualFold(r.Question[0].String(), q.Question[0].String()) {
				h.t.Errorf("%v: got %v, %v", q.Question, r, err)
			}
			h.fromUpstream(b)
		}
		if good && len(r.Answer) != 1 {
			h.t.Errorf("the upstream's answer was not passed on: %v", r)
		}
		if r.Rcode == dns.RcodeServerFailure {
			refused++
		}
	}
	if honest := h.up.honest.Load(); honest != (refused == 0) {
		h.t.Errorf("%d of 1000 answers were rejected", refused)
	}
}

// check checks one reply, and returns the index of its message, which is the reply's ID.
func (h *hostileTest) check(reply []byte, limit int) int {
	h.t.Helper()
	if len(reply) < wire.HeaderLen || len(reply) > limit || reply[2]&0x80 == 0 {
		h.t.Fatalf("not a reply: %x", reply)
	}
	n := int(wire.ID(reply))
	if n >= len(h.messages) {
		h.t.Fatalf("a reply to a message that was not sent: %x", reply)
	}
	msg, rcode := h.messages[n], int(wire.Rcode(reply))
	if want := expected(msg); want != rcode && want != anyCode {
		h.t.Errorf("%x was answered with code %d, want %d", msg, rcode, want)
	}
	// A question that cannot be parsed is not repeated.
	if count := binary.BigEndian.Uint16(reply[4:]); count > 1 || (count == 0) != !hasQuestion(msg) {
		h.t.Errorf("%x was answered with %d questions: %x", msg, count, reply)
	} else if count == 1 && !wire.SameQuestion(msg, reply) {
		h.t.Errorf("%x was answered with %x", msg, reply)
	}
	if err := new(dns.Msg).Unpack(reply); err != nil {
		// The library checks the data of some types more strictly than the zone does.
		if _, bad := wire.ParseReply(slices.Clone(reply)); bad != nil || rcode != int(wire.RcodeSuccess) {
			h.t.Errorf("%x was answered with %x, which cannot be parsed: %v", msg, reply, err)
		}
	}
	h.fromUpstream(reply)
	return n
}

// hasQuestion reports whether a message has exactly one question that can be parsed.
func hasQuestion(msg []byte) bool { return wire.SameQuestion(msg, msg) }

// fromUpstream checks that the answers in a reply are the upstream's to its question.
func (h *hostileTest) fromUpstream(reply []byte) {
	h.t.Helper()
	text, ok := answersText(reply)
	if !ok {
		return
	}
	h.up.mu.Lock()
	defer h.up.mu.Unlock()
	if !h.up.answered[text] {
		h.t.Errorf("the upstream did not answer:\n%s", text)
	}
}
