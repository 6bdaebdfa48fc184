// SPDX-License-Identifier: Apache-2.0

package dnstap

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"sync/atomic"
	"time"

	"sotto/internal/logfile"
	"sotto/internal/ratelog"
)

// reopenTimeout limits the wait for a write in progress.
const reopenTimeout = 5 * time.Second

// file is the output to a file. A file holds one stream, which cannot be continued: a new one
// is started in a new file.
type file struct {
	*buffer
	cfg    *Config
	reopen chan replacement        // for run
	open   atomic.Pointer[os.File] // that of now
	now    stream                  // belongs to run
	warn   ratelog.Limiter
}

// replacement is a stream for run to continue with.
type replacement struct {
	stream
	done chan struct{} // closed when the old one is
}

// stream is an open file with the frames written to it.
type stream struct {
	*os.File
	size int64 // where the last complete frame ends
}

// openFile starts a stream in the file at the configured path.
func openFile(cfg *Config) (*file, error) {
	s, err := newStream(cfg.File)
	if err != nil {
		return nil, fmt.Errorf("open the dnstap file: %w", err)
	}
	f := &file{buffer: newBuffer(), cfg: cfg, reopen: make(chan replacement), now: s}
	f.open.Store(s.File)
	return f, nil
}

// newStream starts a stream in a new or empty file at path. A file with content is renamed.
func newStream(path string) (s stream, err error) {
	for range 3 { // another process may do the same
		f, err := logfile.Append(path)
		if err != nil {
			return s, err
		}
		info, err := f.Stat()
		switch {
		case err != nil:
		case !info.Mode().IsRegular():
			err = fmt.Errorf("%s is not a regular file", path)
		case info.Size() == 0:
			s.File = f
			if err = s.write(appendControl(nil, controlStart, true)); err == nil {
				return s, nil
			}
		default:
			err = rename(path)
		}
		if err = errors.Join(err, f.Close()); err != nil {
			return s, err
		}
	}
	return s, fmt.Errorf("%s: another process writes to it", path)
}

// rename adds the time to the name of the file at path.
func rename(path string) error {
	base := path + "." + time.Now().UTC().Format("20060102T150405Z")
	to := base
	for n := 1; ; n++ {
		if _, err := os.Lstat(to); errors.Is(err, fs.ErrNotExist) {
			return os.Rename(path, to)
		} else if err != nil {
			return err
		}
		to = fmt.Sprintf("%s-%d", base, n)
	}
}

// write appends frames. After an error it removes what was written of them.
func (s *stream) write(frames []byte) error {
	n, err := s.Write(frames)
	if err != nil {
		if n > 0 {
			err = errors.Join(err, s.Truncate(s.size))
		}
		return err
	}
	s.size += int64(n)
	return nil
}

// finish ends the stream and closes the file.
func (s *stream) finish() error {
	return errors.Join(s.write(appendControl(nil, controlStop, false)), s.Close())
}

// run writes frames until ctx is canceled.
func (f *file) run(ctx context.Context) error {
	for {
		select {
		case <-f.wake:
			f.flush()
		case r := <-f.reopen:
			if err := f.now.finish(); err != nil {
				f.failed(err)
			}
			f.now = r.stream
			f.open.Store(r.File)
			close(r.done)
		case <-ctx.Done():
			return nil
		}
	}
}

func (f *file) flush() {
	frames, count := f.take()
	err := f.now.write(frames)
	f.done(frames, count, err)
	if err != nil {
		f.failed(err)
	}
}

// restart starts a new file if the current one was renamed or removed. When it returns nil the
// old one is complete and closed.
func (f *file) restart(ctx context.Context) error {
	if logfile.IsAt(f.open.Load(), f.cfg.File) {
		return nil
	}
	s, err := newStream(f.cfg.File)
	if err != nil {
		return fmt.Errorf("reopen the dnstap file: %w", err)
	}
	r := replacement{s, make(chan struct{})}
	ctx, cancel := context.WithTimeout(ctx, reopenTimeout)
	defer cancel()
	select {
	case f.reopen <- r:
		<-r.done
		return nil
	case <-ctx.Done():
		return errors.Join(fmt.Errorf("reopen the dnstap file %s: a write to the old one does not return: %w", f.cfg.File, ctx.Err()), s.Close())
	}
}

// close writes the rest and ends the stream. run has returned.
func (f *file) close() error {
	f.flush()
	if err := f.now.finish(); err != nil {
		return fmt.Errorf("close the dnstap file: %w", err)
	}
	return nil
}

func (f *file) failed(err error) {
	if f.warn.Allow(time.Now()) {
		f.cfg.Log.Warn("cannot write the dnstap file: messages are lost", "err", err, "lost_total", f.lost.Load())
	}
}
