// SPDX-License-Identifier: Apache-2.0

package querylog

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"sotto/forwarder"
	"sotto/forwarder/wire"
	"sotto/internal/netlab/labtest"
)

func event(t testing.TB, name string) forwarder.Event {
	t.Helper()
	n, err := wire.AppendParsed(nil, name)
	if err != nil {
		t.Fatal(err)
	}
	return forwarder.Event{
		Origin: forwarder.Origin{Workload: "/app.slice", Addr: netip.MustParseAddrPort("9.9.9.9:53")},
		Client: netip.MustParseAddrPort("192.0.2.7:5353"), TCP: true,
		Name: n, Type: 1, Class: 1, Rcode: 2, Rule: 3, Source: forwarder.FromSotto, Duration: 1500 * time.Microsecond, Err: errors.New("it failed"),
	}
}

// line is a line of the log. Attributes are compared by their text.
type line map[string]any

func (l line) get(key string) string {
	if v, ok := l[key]; ok {
		return fmt.Sprint(v)
	}
	return ""
}

func read(t *testing.T, path string) (lines []line) {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	s := bufio.NewScanner(f)
	for s.Scan() {
		var l line
		if err := json.Unmarshal(s.Bytes(), &l); err != nil {
			t.Errorf("%q: %v", s.Text(), err)
		}
		lines = append(lines, l)
	}
	if s.Err() != nil {
		t.Fatal(s.Err())
	}
	return lines
}

// open starts a log. stop writes the rest and closes it.
func open(t *testing.T, cfg Config) (l *Log, stop func()) {
	t.Helper()
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	l, err := Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- l.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := errors.Join(<-done, l.Close()); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(stop)
	return l, stop
}

func TestLines(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	l, stop := open(t, Config{Path: path})
	before := time.Now()
	l.Observe(event(t, "WWW.example."))
	stop()
	got := read(t, path)
	if len(got) != 1 {
		t.Fatal(got)
	}
	at, err := time.Parse(time.RFC3339Nano, got[0].get("time"))
	if err != nil || at.Before(before.Truncate(0)) || at.After(time.Now()) {
		t.Errorf("time %v, %v", at, err)
	}
	want := line{
		"msg": "query", "workload": "/app.slice", "client": "192.0.2.7:5353", "nameserver": "9.9.9.9:53", "proto": "tcp", "name": "WWW.example.",
		"type": "A", "rcode": "SERVFAIL", "source": "sotto", "rule": 3, "milliseconds": 1.5, "error": "it failed", "time": got[0].get("time"),
	}
	if fmt.Sprint(got[0]) != fmt.Sprint(want) {
		t.Errorf("%v\nwant %v", got[0], want)
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode() != 0o600 || l.Stats() != (Stats{Written: 1}) {
		t.Errorf("%v, %v, %+v", info.Mode(), err, l.Stats())
	}
}

// TestAppends: a log continues a file, such as one that logrotate created with its own mode.
// TestWorkloadName: a line has the name that is known when it is written.
func TestWorkloadName(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	l, stop := open(t, Config{Path: path, WorkloadName: func(workload string) string { return "unit of " + workload }})
	l.Observe(event(t, "www.example."))
	stop()
	if got := read(t, path); len(got) != 1 || got[0].get("workload") != "/app.slice" || got[0].get("workload_name") != "unit of /app.slice" {
		t.Errorf("%v", got)
	}
}

func TestAppends(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	if err := os.WriteFile(path, []byte("{}\n"), 0o640); err != nil {
		t.Fatal(err)
	}
	l, stop := open(t, Config{Path: path})
	l.Observe(event(t, "a.example."))
	stop()
	if got := read(t, path); len(got) != 2 {
		t.Error(got)
	}
}

func TestRefusedPaths(t *testing.T) {
	dir := t.TempDir()
	if err := errors.Join(os.Symlink(filepath.Join(dir, "to"), filepath.Join(dir, "link")), unix.Mkfifo(filepath.Join(dir, "pipe"), 0o600)); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{
		"none/log": "its directory must exist", "link": "it must not be a symbolic link", "pipe": "no program reads the pipe",
	} {
		if l, err := Open(Config{Path: filepath.Join(dir, name)}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, %v", name, l, err)
		}
	}
}

// TestRotation renames the file again and again during a load: every query is in one of the
// files, and no file has a part of a line. A file is complete when Reopen returns.
func TestRotation(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "log")
	l, stop := open(t, Config{Path: path})
	const senders, each, rotations = 4, 2000, 20
	var load sync.WaitGroup
	for s := range senders {
		load.Go(func() {
			for i := range each {
				e := event(t, fmt.Sprintf("n%d.s%d.example.", i, s))
				for len(l.queue) > queueLen/2 { // so that none is lost
					runtime.Gosched()
				}
				l.Observe(e)
			}
		})
	}
	seen := map[string]int{}
	count := func(path string) {
		for _, q := range read(t, path) {
			seen[q.get("name")]++
		}
	}
	for i := range rotations {
		old := fmt.Sprintf("%s.%d", path, i)
		if err := errors.Join(os.Rename(path, old), l.Reopen(t.Context())); err != nil {
			t.Fatal(err)
		}
		count(old)
	}
	load.Wait()
	stop()
	count(path)
	if got := l.Stats(); len(seen) != senders*each || got != (Stats{Written: senders * each}) {
		t.Errorf("%d names, %+v", len(seen), got)
	}
	for name, n := range seen {
		if n != 1 {
			t.Errorf("%s: %d times", name, n)
		}
	}
}

// TestReopenFails: the old file stays in use.
func TestReopenFails(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "dir")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	l, stop := open(t, Config{Path: filepath.Join(dir, "log")})
	if err := os.Rename(dir, dir+".old"); err != nil {
		t.Fatal(err)
	}
	if err := l.Reopen(t.Context()); err == nil || !strings.Contains(err.Error(), "must exist") {
		t.Error(err)
	}
	l.Observe(event(t, "a.example."))
	stop()
	if got := read(t, filepath.Join(dir+".old", "log")); len(got) != 1 {
		t.Error(got)
	}
}

// openPipe makes a named pipe, and opens it for reading until the test ends.
func openPipe(t *testing.T) (path string, reader *os.File) {
	t.Helper()
	path = labtest.FIFO(t)
	reader, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = reader.Close() })
	return path, reader
}

// TestStuckReader: a reader of a pipe that does not read delays nothing. What does not fit is
// counted, and reported in the log when it reads again.
func TestStuckReader(t *testing.T) {
	path, reader := openPipe(t)
	l, stop := open(t, Config{Path: path})
	const all = 3 * queueLen
	for range all { // the pipe and the queue have room for less
		l.Observe(event(t, "a.example."))
	}
	if l.Stats().Lost == 0 {
		t.Fatal("nothing was lost")
	}
	var queries, lost int
	lines := bufio.NewScanner(reader)
	for queries+lost < all && lines.Scan() {
		var q line
		if err := json.Unmarshal(lines.Bytes(), &q); err != nil {
			t.Fatal(err)
		}
		if q.get("msg") == msgQuery {
			queries++
		} else {
			lost += int(q["lost"].(float64))
		}
	}
	if queries+lost != all || uint64(lost) != l.Stats().Lost {
		t.Errorf("%d queries, %d lost, %+v, %v", queries, lost, l.Stats(), lines.Err())
	}
	stop()
}

// TestStopsWhileStuck: Run returns although the reader of a pipe does not read.
func TestStopsWhileStuck(t *testing.T) {
	path, _ := openPipe(t)
	l, stop := open(t, Config{Path: path})
	sent := uint64(0)
	for ; l.Stats().Lost == 0; sent++ {
		l.Observe(event(t, "a.example."))
	}
	stop()
	// Of the queue, only what fits into the pipe may have been written: less than half.
	if s := l.Stats(); s.Written+s.Lost != sent || s.Lost < queueLen/2 {
		t.Errorf("%+v of %d: what was in the queue is lost", s, sent)
	}
}

// TestFullDisk: lines that cannot be written are lost and counted, and a warning says why.
func TestFullDisk(t *testing.T) {
	var text strings.Builder
	l, stop := open(t, Config{Path: "/dev/full", Log: slog.New(slog.NewTextHandler(&text, nil))})
	for range 5 {
		l.Observe(event(t, "a.example."))
	}
	stop()
	if got := l.Stats(); got != (Stats{Lost: 5}) || !strings.Contains(text.String(), "no space left on device") || strings.Count(text.String(), "\n") != 1 {
		t.Errorf("%+v\n%s", got, &text)
	}
}

// shortWriter writes the given number of bytes, and then fails once.
type shortWriter struct {
	strings.Builder
	room int
}

func (w *shortWriter) Write(b []byte) (int, error) {
	if room := w.room; room >= 0 && len(b) > room {
		w.room = -1
		n, _ := w.Builder.Write(b[:room])
		return n, unix.ENOSPC
	}
	return w.Builder.Write(b)
}

// TestTornLine: the line after a part of a line starts at the beginning of a line.
func TestTornLine(t *testing.T) {
	w := &shortWriter{room: 20}
	l, err := Open(Config{Writer: w, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"a.example.", "b.example."} {
		l.Observe(event(t, name))
		l.drain()
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(w.String()), "\n")
	if len(lines) != 3 || len(lines[0]) != 20 || !strings.Contains(lines[1], `"lost":1`) || !strings.Contains(lines[2], "b.example.") {
		t.Errorf("%q", lines)
	}
	if got := l.Stats(); got != (Stats{Written: 1, Lost: 1}) {
		t.Errorf("%+v", got)
	}
}

func TestSample(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	l, stop := open(t, Config{Path: path, Sample: 100})
	const all = 100_000
	e := event(t, "a.example.")
	for range all {
		for len(l.queue) > queueLen/2 {
			runtime.Gosched()
		}
		l.Observe(e)
	}
	stop()
	got := read(t, path)
	// The standard deviation is 31.
	if n := len(got); n < 700 || n > 1300 || got[0].get("sample") != "100" {
		t.Errorf("%d lines of %d, the first is %v", n, all, got[0])
	}
}

func TestObserveAllocates(t *testing.T) {
	l, err := Open(Config{Path: filepath.Join(t.TempDir(), "log"), Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	e := event(t, "a.example.")
	if n := testing.AllocsPerRun(1000, func() { l.Observe(e) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
}

// BenchmarkLine observes queries and writes their lines, in turn.
func BenchmarkLine(b *testing.B) {
	for _, hash := range []bool{false, true} {
		b.Run(fmt.Sprintf("hash=%t", hash), func(b *testing.B) {
			l, err := Open(Config{Path: filepath.Join(b.TempDir(), "log"), HashNames: hash, Log: slog.New(slog.DiscardHandler)})
			if err != nil {
				b.Fatal(err)
			}
			e := event(b, "www.example.com.")
			b.ReportAllocs()
			for b.Loop() {
				l.Observe(e)
				if len(l.queue) == cap(l.queue) {
					for len(l.queue) > 0 {
						l.drain()
					}
				}
			}
			if err := l.Close(); err != nil {
				b.Fatal(err)
			}
		})
	}
}
