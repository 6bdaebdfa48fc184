// SPDX-License-Identifier: Apache-2.0

package querylog

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"sync/atomic"
	"time"

	"sotto/forwarder"
	"sotto/forwarder/wire"
	"sotto/internal/logfile"
	"sotto/internal/observe"
	"sotto/internal/ratelog"
)

const (
	// queueLen is how many queries may wait to be written: a twentieth of a second at full
	// load, in about 2 MB.
	queueLen = 4096

	// maxBatch is how many bytes are written at once at the most, but for the last line.
	maxBatch = 64 << 10

	// reopenTimeout limits the wait for a write in progress.
	reopenTimeout = 5 * time.Second

	// stopTimeout and closeTimeout limit the wait for the reader of a pipe, in Run after a stop and
	// in Close. The first one is short because the seal is released after Run.
	stopTimeout  = 100 * time.Millisecond
	closeTimeout = time.Second
)

// Messages of the lines.
const (
	msgQuery = "query"
	msgLost  = "queries not logged" // with their number, lost
)

// Config describes a query log.
type Config struct {
	// Path is the file to append to. It is not used if Writer is set.
	Path string

	// Writer, if set, receives the lines. Each call of Write has whole lines.
	Writer io.Writer

	// Sample is n to log one query in n on average; 0 is 1.
	Sample int

	// HashNames replaces names by hashes.
	HashNames bool

	// WorkloadName returns the name of the workload with a cgroup path, or "" if it is not known.
	// Run calls it, for each line. nil: names are not logged.
	WorkloadName func(workload string) string

	// Log receives what operators should know.
	Log *slog.Logger
}

// Log is a query log. Its methods are safe for concurrent use, except Close.
type Log struct {
	cfg    Config
	queue  chan entry
	reopen chan *os.File // a new file for Run
	stats  counters
	file   atomic.Pointer[os.File] // nil if there is a Writer; Run changes it

	// The rest belongs to Run.
	out      io.Writer
	hash     hasher
	json     slog.Handler
	batch    bytes.Buffer // lines to be written
	lines    uint64       // number of queries in batch
	reports  []report     // the lines about lost queries in batch
	torn     bool         // the file ends with a part of a line
	reported uint64       // lost queries that a line has reported
	warn     ratelog.Limiter
}

// entry is a query in the queue.
type entry struct {
	event forwarder.Event // without Name
	time  time.Time       // of the reply
	name  [wire.MaxName]byte
	len   int
}

// report is a line about lost queries in the batch.
type report struct {
	end    int    // where it ends
	before uint64 // what was reported before it
}

type counters struct{ written, lost atomic.Uint64 }

// Stats are the numbers since the start.
type Stats struct {
	Written uint64 // queries
	Lost    uint64 // queries of the sample that were not written
}

// Open opens the file. The caller calls Close.
func Open(cfg Config) (*Log, error) {
	l := &Log{cfg: cfg, queue: make(chan entry, queueLen), reopen: make(chan *os.File), out: cfg.Writer}
	if cfg.Writer == nil {
		f, err := logfile.Append(cfg.Path)
		if err != nil {
			return nil, fmt.Errorf("open the query log: %w", err)
		}
		l.file.Store(f)
		l.out = f
	}
	l.json = slog.NewJSONHandler(&l.batch, &slog.HandlerOptions{ReplaceAttr: func(groups []string, a slog.Attr) slog.Attr {
		if len(groups) == 0 && a.Key == slog.LevelKey {
			return slog.Attr{}
		}
		return a
	}})
	return l, nil
}

// Observe queues a query, if it belongs to the sample. It never blocks and allocates nothing.
func (l *Log) Observe(e forwarder.Event) {
	if l.cfg.Sample > 1 && rand.N(l.cfg.Sample) != 0 {
		return
	}
	if len(l.queue) == cap(l.queue) { // cheaper than to fill an entry
		l.stats.lost.Add(1)
		return
	}
	q := entry{event: e, time: time.Now()}
	q.len = copy(q.name[:], e.Name)
	q.event.Name = nil
	select {
	case l.queue <- q:
	default:
		l.stats.lost.Add(1)
	}
}

// Stats returns the current numbers.
func (l *Log) Stats() Stats { return Stats{l.stats.written.Load(), l.stats.lost.Load()} }

// Run writes lines until ctx is canceled. Close writes those of later queries.
func (l *Log) Run(ctx context.Context) error {
	limited := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		l.limitWrites(stopTimeout)
		close(limited)
	})
	defer func() {
		if !stop() {
			<-limited // so that Close sets the last deadline
		}
	}()
	for ctx.Err() == nil {
		select {
		case q := <-l.queue:
			l.add(&q)
			l.drain()
		case f := <-l.reopen:
			l.swap(f)
		case <-ctx.Done():
		}
	}
	return nil
}

// limitWrites makes writes to a pipe fail after d. Files do not block, and have no deadline.
func (l *Log) limitWrites(d time.Duration) {
	if f := l.file.Load(); f != nil {
		_ = f.SetWriteDeadline(time.Now().Add(d))
	}
}

// drain writes what is in the queue.
func (l *Log) drain() {
	for l.batch.Len() < maxBatch {
		select {
		case q := <-l.queue:
			l.add(&q)
			continue
		default:
		}
		break
	}
	l.flush()
}

// Reopen opens the file again, if another program has renamed or removed it. When it returns
// nil the old file is complete. After an error the old one stays in use.
func (l *Log) Reopen(ctx context.Context) error {
	if l.cfg.Writer != nil {
		return nil
	}
	f, err := logfile.Append(l.cfg.Path)
	if err != nil {
		return fmt.Errorf("reopen the query log: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, reopenTimeout)
	defer cancel()
	select {
	case l.reopen <- f:
		return nil
	case <-ctx.Done():
		return errors.Join(fmt.Errorf("reopen the query log %s: a write to the old file does not return: %w", l.cfg.Path, ctx.Err()), f.Close())
	}
}

// swap replaces the file by f, and closes it.
func (l *Log) swap(f *os.File) {
	if err := l.file.Swap(f).Close(); err != nil {
		l.failed(err)
	}
	l.out, l.torn = f, false
}

// Close writes what is in the queue and closes the file. Run must have returned, and Observe
// must not be called any more.
func (l *Log) Close() error {
	l.limitWrites(closeTimeout)
	for len(l.queue) > 0 {
		l.drain()
	}
	if l.stats.lost.Load() > l.reported {
		l.reportLost(time.Now())
		l.flush()
	}
	f := l.file.Load()
	if f == nil {
		return nil
	}
	if err := f.Close(); err != nil {
		return fmt.Errorf("close the query log: %w", err)
	}
	return nil
}

// add appends the line of a query to the batch.
func (l *Log) add(q *entry) {
	l.reportLost(q.time)
	q.event.Name = q.name[:q.len]
	r := observe.NewRecord(&q.event, q.time)
	if l.cfg.WorkloadName != nil {
		r.WorkloadName = l.cfg.WorkloadName(r.Workload)
	}
	if l.cfg.HashNames {
		r.Name = l.hash.name(q.event.Name, q.time)
	}
	var room [16]slog.Attr
	l.line(q.time, msgQuery, r.Attrs(room[:0])...)
	l.lines++
}

// reportLost adds a line about the queries that were lost since the last one.
func (l *Log) reportLost(now time.Time) {
	if lost := l.stats.lost.Load(); lost > l.reported {
		l.line(now, msgLost, slog.Uint64("lost", lost-l.reported))
		l.reports = append(l.reports, report{l.batch.Len(), l.reported})
		l.reported = lost
	}
}

func (l *Log) line(now time.Time, msg string, attrs ...slog.Attr) {
	r := slog.NewRecord(now, slog.LevelInfo, msg, 0)
	if l.cfg.Sample > 1 {
		r.AddAttrs(slog.Int("sample", l.cfg.Sample))
	}
	r.AddAttrs(attrs...)
	_ = l.json.Handle(context.Background(), r) // writing to memory does not fail
}

// flush writes the batch. Lines that cannot be written are lost.
func (l *Log) flush() {
	n, err := l.write()
	if err != nil {
		missing := l.missing(n)
		l.lines -= missing
		l.stats.lost.Add(missing)
		l.failed(err)
	}
	l.stats.written.Add(l.lines)
	l.batch.Reset()
	l.lines, l.reports = 0, l.reports[:0]
}

// write writes the batch, and returns how many of its bytes were written.
func (l *Log) write() (n int, err error) {
	text := l.batch.Bytes()
	if !l.torn {
		n, err = l.out.Write(text)
	} else if n, err = l.out.Write(append([]byte{'\n'}, text...)); n > 0 {
		l.torn = false
		n--
	}
	if n > 0 {
		l.torn = text[n-1] != '\n'
	}
	return n, err
}

// missing returns how many queries have no line in the first n bytes of the batch. Lost queries
// whose line is not there are reported again.
func (l *Log) missing(n int) uint64 {
	rest := l.batch.Bytes()[n:]
	if bytes.HasPrefix(rest, []byte{'\n'}) { // written with the next batch, see torn
		n, rest = n+1, rest[1:]
	}
	lines := bytes.Count(rest, []byte{'\n'})
	for i, r := range l.reports {
		if r.end > n {
			l.reported = r.before
			lines -= len(l.reports) - i
			break
		}
	}
	return uint64(lines)
}

// failed logs an error of the file, at most once a minute.
func (l *Log) failed(err error) {
	if l.warn.Allow(time.Now()) {
		l.cfg.Log.Warn("cannot write the query log: lines are lost", "err", err, "lost_total", l.stats.lost.Load())
	}
}
