// SPDX-License-Identifier: Apache-2.0

package cache

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/miekg/dns"

	"sotto/forwarder/wire"
)

// saved returns the result of Save.
func saved(t testing.TB, c *Cache, now time.Time) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := c.Save(&b, now); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// file returns a file with these payloads, valid in all other parts.
func file(at time.Time, payloads ...[]byte) []byte {
	b := append([]byte(magic), 0, 0, 0, formatVersion)
	b = binary.BigEndian.AppendUint64(b, uint64(at.UnixNano()))
	b = binary.BigEndian.AppendUint32(b, crc32.Checksum(b, castagnoli()))
	for _, p := range append(payloads, binary.BigEndian.AppendUint64(nil, uint64(len(payloads)))) {
		b = appendChunk(b, func(dst []byte) []byte { return append(dst, p...) })
	}
	return b
}

// payload returns a payload with these parts.
func payload(stored time.Time, key, msg []byte) []byte {
	b := binary.BigEndian.AppendUint64(nil, uint64(stored.UnixNano()))
	b = binary.BigEndian.AppendUint16(b, uint16(len(key)))
	return append(append(b, key...), msg...)
}

// TestSaveLoad: a cache that loads the file gives the same answers: fresh, stale, negative, or
// under a key with a suffix.
func TestSaveLoad(t *testing.T) {
	cfg := Config{MaxStale: time.Hour, MinTTL: 10 * time.Second}
	old := newCache(t, cfg)
	ede := &dns.EDNS0_EDE{InfoCode: 4, ExtraText: "forged"}
	var queries []wire.Query
	var keys [][]byte
	put := func(rcode int, answer, ns string, suffix string, ede ...dns.EDNS0) {
		q, r := exchange(t, fmt.Sprintf("N%d.example.", len(queries)), rcode, answer, ns, ede...)
		q.EDNS, q.DO, r.AD = true, true, len(queries)%2 == 0
		key := append(wire.AppendKey(nil, &q), suffix...)
		old.Put(key, &r, t0)
		queries, keys = append(queries, q), append(keys, key)
	}
	long := ""
	for i := range 600 {
		long += fmt.Sprintf("n3.example. %d IN A 192.0.%d.%d\n", 300+i, i/256, i%256)
	}
	put(dns.RcodeSuccess, "n0.example. 300 IN A 192.0.2.1\n", "", "")
	put(dns.RcodeSuccess, "n1.example. 1 IN CNAME c.example.\nc.example. 5 IN A 192.0.2.1\n", "", strings.Repeat("s", 80), ede, ede)
	put(dns.RcodeNameError, "", "example. 600 IN SOA ns. host. 1 2 3 4 3\n", "")
	put(dns.RcodeSuccess, long, "", "")
	put(dns.RcodeSuccess, "", negative, "x", ede)

	restarted := newCache(t, cfg)
	// The reader returns one byte at a time.
	n, err := restarted.Load(iotest.OneByteReader(bytes.NewReader(saved(t, old, t0.Add(5*time.Second)))), t0.Add(8*time.Second))
	if err != nil || n != len(keys) {
		t.Fatalf("%d of %d entries, %v", n, len(keys), err)
	}
	for i, key := range keys {
		for _, after := range []time.Duration{9, 11, 60, 350, 500, 4000} {
			var a, b Answer
			at := t0.Add(after * time.Second)
			want, got := old.Get(key, at, &a), restarted.Get(key, at, &b)
			if got != want {
				t.Fatalf("entry %d after %v s: state %v, want %v", i, after, got, want)
			}
			if want != Miss && !bytes.Equal(b.Append(nil, &queries[i], 0), a.Append(nil, &queries[i], 0)) {
				t.Errorf("entry %d after %v s: %x, want %x", i, after, b.Append(nil, &queries[i], 0), a.Append(nil, &queries[i], 0))
			}
			if a.Reply.Negative != b.Reply.Negative || a.Reply.AD != b.Reply.AD {
				t.Errorf("entry %d: %+v, want %+v", i, b.Reply, a.Reply)
			}
		}
	}
}

// TestSaveOmits: expired entries and failures are not saved.
func TestSaveOmits(t *testing.T) {
	c := newCache(t, Config{})
	q, r := exchange(t, "www.example.", dns.RcodeSuccess, positive, "")
	c.Put(wire.AppendKey(nil, &q), &r, t0)
	q, r = exchange(t, "fail.example.", dns.RcodeServerFailure, "", "")
	c.Put(wire.AppendKey(nil, &q), &r, t0.Add(300*time.Second))
	empty := saved(t, newCache(t, Config{}), t0.Add(300*time.Second))
	if got := saved(t, c, t0.Add(300*time.Second)); !bytes.Equal(got, empty) {
		t.Errorf("%x, want that of an empty cache, %x", got, empty)
	}
}

// TestTimeAcrossRestart: the time between saving and loading counts, and no change of the
// clock makes an answer live longer.
func TestTimeAcrossRestart(t *testing.T) {
	const s = time.Second
	for _, tt := range []struct {
		name     string
		saved    time.Duration // after t0, when it was stored
		loaded   time.Duration
		maxStale time.Duration
		n        int // entries loaded, -1: an error
		get      time.Duration
		state    State
		ttl      uint32
	}{
		{name: "immediately", saved: 10 * s, loaded: 10 * s, n: 1, get: 10 * s, state: Fresh, ttl: 290},
		{name: "after a while", saved: 10 * s, loaded: 200 * s, n: 1, get: 200 * s, state: Fresh, ttl: 100},
		{name: "expired before loading", saved: 10 * s, loaded: 400 * s, n: 0, get: 400 * s, state: Miss},
		{name: "stale before loading", saved: 10 * s, loaded: 400 * s, maxStale: time.Hour, n: 1, get: 400 * s, state: Stale, ttl: 30},
		{name: "stale, but too old", saved: 10 * s, loaded: 2 * time.Hour, maxStale: time.Hour, n: 0, get: 400 * s, state: Miss},
		{name: "saved stale", saved: 350 * s, loaded: 400 * s, maxStale: time.Hour, n: 1, get: 400 * s, state: Stale, ttl: 30},
		{name: "the clock went back", saved: 200 * s, loaded: 190 * s, n: -1, get: 200 * s, state: Miss},
		{name: "the clock went back to before it was stored", saved: 200 * s, loaded: -10 * s, n: -1, get: 200 * s, state: Miss},
		// A second is tolerated: after the restart the TTL is the same as before.
		{name: "the clock was corrected", saved: 200 * s, loaded: 199 * s, n: 1, get: 199 * s, state: Fresh, ttl: 100},
	} {
		t.Run(tt.name, func(t *testing.T) {
			old, restarted := newCache(t, Config{MaxStale: tt.maxStale}), newCache(t, Config{MaxStale: tt.maxStale})
			q, r := exchange(t, "www.example.", dns.RcodeSuccess, positive, "")
			key := wire.AppendKey(nil, &q)
			old.Put(key, &r, t0)
			n, err := restarted.Load(bytes.NewReader(saved(t, old, t0.Add(tt.saved))), t0.Add(tt.loaded))
			if err != nil {
				n = -1
			}
			if n != tt.n {
				t.Fatalf("%d entries taken, want %d (%v)", n, tt.n, err)
			}
			checkGet(t, restarted, &q, 0, t0.Add(tt.get), event{at: tt.get, state: tt.state, ttl: tt.ttl})
		})
	}
}

// TestLoadLimits: the current limits apply, and entries in the cache are not replaced.
func TestLoadLimits(t *testing.T) {
	old := newCache(t, Config{})
	q, r := exchange(t, "www.example.", dns.RcodeSuccess, positive, "")
	key := wire.AppendKey(nil, &q)
	old.Put(key, &r, t0)
	b := saved(t, old, t0)
	c := newCache(t, Config{MaxTTL: time.Minute})
	if n, err := c.Load(bytes.NewReader(b), t0); n != 1 || err != nil {
		t.Fatal(n, err)
	}
	checkGet(t, c, &q, 0, t0, event{state: Fresh, ttl: 60})
	c.Put(key, &r, t0.Add(10*time.Second))
	if n, err := c.Load(bytes.NewReader(b), t0.Add(20*time.Second)); n != 0 || err != nil {
		t.Errorf("%d entries loaded over newer ones, %v", n, err)
	}
	checkGet(t, c, &q, 1, t0.Add(20*time.Second), event{state: Fresh, ttl: 50})

	q, r = exchange(t, "www.example.", dns.RcodeSuccess, strings.Repeat(positive, 200), "")
	old.Put(key, &r, t0)
	small := newCache(t, Config{MaxBytes: minBytes})
	if n, err := small.Load(bytes.NewReader(saved(t, old, t0)), t0); n != 0 || err != nil {
		t.Errorf("%d entries loaded above the maximum size, %v", n, err)
	}

	r.Msg[7]++ // one answer more than there are: not valid for ParseReply
	c.Put(key, &r, t0)
	if n, err := newCache(t, Config{}).Load(bytes.NewReader(saved(t, c, t0)), t0); n != 0 || err == nil {
		t.Errorf("%d entries loaded that wire refuses, %v", n, err)
	}
}

// TestDamage: the error for any fault of a file ends with the fix, and the entries before the
// fault are loaded.
func TestDamage(t *testing.T) {
	c := newCache(t, Config{})
	q, r := exchange(t, "www.example.", dns.RcodeSuccess, positive, "")
	_, fail := exchange(t, "www.example.", dns.RcodeServerFailure, "", "")
	_, zero := exchange(t, "www.example.", dns.RcodeSuccess, "www.example. 0 IN A 192.0.2.1\n", "")
	key := wire.AppendKey(nil, &q)
	c.Put(key, &r, t0)
	good := saved(t, c, t0)
	ok := payload(t0, key, r.Msg)
	edit := func(at int, to ...byte) []byte {
		b := bytes.Clone(good)
		copy(b[at:], to)
		return b
	}
	if want := file(t0, ok); len(want) != len(good) {
		t.Fatalf("the helper's file has %d bytes, Save's %d", len(want), len(good))
	}
	for _, tt := range []struct {
		name string
		file []byte
		n    int
		want string
	}{
		{"empty", nil, 0, "not a file that Sotto saved"},
		{"foreign", []byte(strings.Repeat("[cache]\nsize = 3\n", 20)), 0, "not a file that Sotto saved"},
		{"a later format", edit(len(magic), 0, 0, 0, 2), 0, "format 2"},
		{"damaged header", edit(len(magic)+5, 0xFF), 0, "header is damaged"},
		{"damaged entry", edit(headerLen+chunkHead+20, 0xFF), 0, "entry 1: its checksum"},
		{"damaged length", edit(headerLen, 0, 0, 0, good[headerLen+3]-1), 0, "entry 1: its checksum"},
		{"length of everything", edit(headerLen, 0xFF, 0xFF, 0xFF, 0xFF), 0, "entry 1: its length"},
		{"length of nothing", edit(headerLen, 0, 0, 0, 0), 0, "entry 1: its length"},
		{"no end", good[:len(good)-endLen-chunkHead], 1, "entry 2: the file ends early"},
		{"half an end", good[:len(good)-3], 1, "entry 2: the file ends early"},
		{"half an entry", good[:headerLen+30], 0, "entry 1: the file ends early"},
		{"trailing byte", append(bytes.Clone(good), 0), 1, "bytes after the end"},
		{"entries lost", append(file(t0)[:headerLen], file(t0, ok)[headerLen+chunkHead+len(ok):]...), 0, "lost entries"},
		{"another's key", file(t0, ok, payload(t0, append([]byte("\x03xxx"), key[4:]...), r.Msg)), 1, "entry 2: its key"},
		{"no key", file(t0, payload(t0, nil, r.Msg)), 0, "its key"},
		{"a key longer than the payload", file(t0, append(binary.BigEndian.AppendUint16(ok[:8:8], 60000), ok[10:]...)), 0, "its length"},
		{"stored later than saved", file(t0, payload(t0.Add(time.Minute), key, r.Msg)), 0, "it was stored"},
		{"stored before 1970", file(t0, payload(time.Unix(-1<<33, 0), key, r.Msg)), 0, "it was stored"},
		{"a message cut off", file(t0, payload(t0, key, r.Msg[:len(r.Msg)-1])), 0, "parse reply"},
		{"a failure", file(t0, payload(t0, key, fail.Msg)), 0, "never cached"},
		{"TTL 0", file(t0, payload(t0, key, zero.Msg)), 0, "never cached"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			into := newCache(t, Config{MaxStale: 1 << 62})
			n, err := into.Load(bytes.NewReader(tt.file), t0)
			if n != tt.n || into.Stats().Entries != tt.n {
				t.Errorf("%d entries loaded, %d in the cache, want %d", n, into.Stats().Entries, tt.n)
			}
			if err == nil || !strings.Contains(err.Error(), tt.want) || !strings.Contains(err.Error(), "delete") {
				t.Errorf("error %v: want %q, and the fix", err, tt.want)
			}
		})
	}
}

// TestSaveLoadErrors: an I/O error is returned as such, and not as damage.
func TestSaveLoadErrors(t *testing.T) {
	c := newCache(t, Config{MaxBytes: 1 << 30})
	q, r := exchange(t, "www.example.", dns.RcodeSuccess, positive, "")
	key := wire.AppendKey(nil, &q)
	for i := range 5000 {
		number(key, &r, i)
		c.Put(key, &r, t0)
	}
	b := saved(t, c, t0)
	disk := errors.New("input/output error")
	for _, room := range []int{0, 1 << 17, len(b) - 1} {
		if err := c.Save(&limitedWriter{room: room, err: disk}, t0); !errors.Is(err, disk) {
			t.Errorf("a write that fails after %d bytes: %v", room, err)
		}
	}
	for _, good := range []int{0, headerLen, 1 << 17, len(b) - 1, len(b)} {
		_, err := newCache(t, Config{}).Load(&limitedReader{data: b[:good], err: disk}, t0)
		if !errors.Is(err, disk) {
			t.Errorf("a read that fails after %d bytes: %v", good, err)
		}
	}
}

type limitedWriter struct {
	room int
	err  error
}

func (w *limitedWriter) Write(b []byte) (int, error) {
	if len(b) > w.room {
		return w.room, w.err
	}
	w.room -= len(b)
	return len(b), nil
}

type limitedReader struct {
	data []byte
	err  error
}

func (r *limitedReader) Read(b []byte) (int, error) {
	if len(r.data) == 0 {
		return 0, r.err
	}
	n := copy(b, r.data)
	r.data = r.data[n:]
	return n, nil
}

// FuzzLoad: no file makes Load panic, or load what wire refuses. The checksums are correct, or
// fuzzing would not get past them.
func FuzzLoad(f *testing.F) {
	q, r := exchange(f, "www.example.", dns.RcodeSuccess, positive, negative, &dns.EDNS0_EDE{InfoCode: 4, ExtraText: "x"})
	key := wire.AppendKey(nil, &q)
	good := payload(t0, key, r.Msg)
	q.EDNS = true
	f.Add(file(t0, good), good, good)
	f.Add([]byte(magic), payload(t0, append(key, "scope"...), wire.AppendReply(nil, &q, &r, 0, 0)), []byte{})
	f.Add(file(t0), payload(t0.Add(-time.Hour), key, r.Msg), payload(t0, key, r.Msg[:20]))
	c := newCache(f, Config{MaxStale: time.Hour})
	f.Fuzz(func(t *testing.T, raw, one, two []byte) {
		for _, b := range [][]byte{raw, file(t0, one, two)} {
			c.Flush()
			now := t0.Add(time.Second)
			n, err := c.Load(bytes.NewReader(b), now)
			if err != nil && !strings.Contains(err.Error(), "delete") {
				t.Errorf("an error without the fix: %v", err)
			}
			if held := c.Stats().Entries; held != n {
				t.Errorf("%d loaded, %d in the cache", n, held)
			}
			for e := range c.data.Values() {
				checkLoaded(t, c, e, now)
			}
		}
	})
}

// checkLoaded checks that e is a valid entry.
func checkLoaded(t *testing.T, c *Cache, e *entry, now time.Time) {
	msg, keyEnd, _ := e.tail()
	key := append(bytes.Clone(msg[wire.HeaderLen:e.qend]), keyEnd...)
	var a Answer
	if s := c.Get(key, now, &a); s == Miss {
		t.Errorf("loaded, but a miss: %x", msg)
		return
	}
	q := wire.Query{Msg: msg, QEnd: int(e.qend), EDNS: true, AD: true}
	again, err := wire.ParseReply(a.Append(nil, &q, 0))
	if err != nil {
		t.Fatalf("loaded, but refused by wire: %v: %x", err, msg)
	}
	if !keyFits(key, &again) || again.TC || !bytes.Equal(again.Msg[wire.HeaderLen:e.qend], msg[wire.HeaderLen:e.qend]) {
		t.Errorf("loaded %x under %x", again.Msg, key)
	}
	if again.Rcode != wire.RcodeSuccess && again.Rcode != wire.RcodeNXDomain {
		t.Errorf("loaded with rcode %d", again.Rcode)
	}
}
