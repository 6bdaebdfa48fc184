// SPDX-License-Identifier: Apache-2.0

package querylog

import (
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// fullDisk has room for a number of bytes until space is freed.
type fullDisk struct {
	strings.Builder
	room int // of bytes; negative: enough
}

func (d *fullDisk) Write(b []byte) (int, error) {
	if d.room < 0 || len(b) <= d.room {
		d.room -= min(len(b), max(d.room, 0))
		return d.Builder.Write(b)
	}
	n, _ := d.Builder.Write(b[:d.room])
	d.room = 0
	return n, unix.ENOSPC
}

// TestReportsAllLost: a report that cannot be written is repeated, wherever in the batch the disk is
// full. So each query has a line, or is reported as lost by one.
func TestReportsAllLost(t *testing.T) {
	size := 0
	for room := 0; room <= size; room++ {
		disk := &fullDisk{}
		l, err := Open(Config{Writer: disk, Log: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		write := func(names ...string) {
			for _, name := range names {
				e := entry{event: event(t, name)}
				e.len = copy(e.name[:], e.event.Name)
				l.add(&e)
			}
		}
		write("a.example.", "b.example.")
		l.flush()
		disk.room = room
		write("c.example.")
		l.stats.lost.Add(5) // the queue was full
		write("d.example.", "e.example.")
		size = l.batch.Len()
		l.flush()
		write("f.example.")
		l.flush()
		disk.room = -1
		write("g.example.")
		l.flush()
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		queries, lost := linesOf(disk.String())
		if s := l.Stats(); queries+lost != 12 || s != (Stats{Written: queries, Lost: lost}) {
			t.Fatalf("room for %d bytes: %d queries, %d reported as lost, %+v\n%s", room, queries, lost, s, disk)
		}
	}
}

// TestPipeAfterStop: what Run has left is written to a pipe that has room, also long after the stop.
func TestPipeAfterStop(t *testing.T) {
	path, reader := openPipe(t)
	l, err := Open(Config{Path: path, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	for range 3 {
		l.Observe(event(t, "a.example."))
	}
	if err := l.Run(ctx); err != nil {
		t.Fatal(err)
	}
	// As if the time of that deadline had passed.
	if err := l.file.Load().SetWriteDeadline(time.Unix(1, 0)); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		l.Observe(event(t, "a.example."))
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	text, err := io.ReadAll(reader)
	if queries, lost := linesOf(string(text)); err != nil || queries != 6 || lost != 0 || l.Stats() != (Stats{Written: 6}) {
		t.Errorf("%d queries, %d reported as lost, %+v, %v", queries, lost, l.Stats(), err)
	}
}

// linesOf counts the queries that have a line in a log, and those that it reports as lost. Parts of
// lines do not count.
func linesOf(text string) (queries, lost uint64) {
	for l := range strings.Lines(text) {
		var q struct {
			Msg  string
			Lost uint64
		}
		switch err := json.Unmarshal([]byte(l), &q); {
		case err != nil:
		case q.Msg == msgQuery:
			queries++
		default:
			lost += q.Lost
		}
	}
	return queries, lost
}
