// SPDX-License-Identifier: Apache-2.0

package config

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// maxFile is enough for ten million names.
	maxFile = 256 << 20

	// maxConfig is more than any configuration file needs, written by hand or generated.
	maxConfig = 16 << 20

	// openTimeout is how long a pipe may have no writer. A process that writes to it may
	// start at the same time as this one.
	openTimeout = 5 * time.Second

	// readTimeout is how long a writer may pause. It may fetch its data from a server.
	readTimeout = time.Minute
)

// ReadFile reads a file that a setting names. It may be a pipe (a shell's <(CMD),
// /dev/stdin) or a character device (/dev/null). It fails if the file is too long, or if
// it is a pipe without data.
func ReadFile(file string) ([]byte, error) { return readAtMost(file, maxFile) }

// readAtMost is [ReadFile] with a limit in bytes.
func readAtMost(name string, limit int) ([]byte, error) {
	s, err := openStream(name, limit)
	if err != nil {
		return nil, err
	}
	defer unix.Close(s.fd)
	text, err := s.read()
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	return text, nil
}

// stream is an open file that is read to its end.
type stream struct {
	fd    int // non-blocking
	limit int
	pipe  bool

	openTimeout, readTimeout time.Duration
}

// openStream opens a file for [readAtMost]. The caller closes its descriptor.
func openStream(name string, limit int) (stream, error) {
	// A blocking open of a named pipe would wait for a writer.
	fd, err := unix.Open(name, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	if err != nil {
		return stream{}, &fs.PathError{Op: "open", Path: name, Err: err}
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return stream{}, errors.Join(&fs.PathError{Op: "stat", Path: name, Err: err}, unix.Close(fd))
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG, unix.S_IFIFO, unix.S_IFCHR:
	default:
		return stream{}, errors.Join(fmt.Errorf("%s is a directory or a block device: name a file", name), unix.Close(fd))
	}
	return stream{fd: fd, limit: limit, pipe: st.Mode&unix.S_IFMT == unix.S_IFIFO, openTimeout: openTimeout, readTimeout: readTimeout}, nil
}

// read reads to the end. An empty pipe is an error, unlike an empty file: its writer has
// failed, or the pipe was read before (by an earlier load of the same <(CMD)).
func (s stream) read() ([]byte, error) {
	var text []byte
	chunk := make([]byte, 64<<10)
	waited := false
	for {
		n, err := unix.Read(s.fd, chunk)
		switch {
		case errors.Is(err, unix.EINTR):
		case errors.Is(err, unix.EAGAIN): // the pipe has a writer
			events, err := s.poll(s.readTimeout)
			if err != nil {
				return nil, err
			}
			if events == 0 {
				return nil, fmt.Errorf("no data for %s: check the process that writes to it, or name a file", s.readTimeout)
			}
		case err != nil:
			return nil, err
		case n > 0:
			if text = append(text, chunk[:n]...); len(text) > s.limit {
				return nil, fmt.Errorf("it is longer than %d MiB: shorten it, or name another file", s.limit>>20)
			}
		case len(text) > 0 || !s.pipe:
			return text, nil
		case waited:
			return nil, errors.New("it is a pipe that no process writes to: start that process first, or name a file")
		default:
			events, err := s.poll(s.openTimeout)
			if err != nil {
				return nil, err
			}
			if events != 0 && events&unix.POLLIN == 0 {
				return nil, errors.New("it is an empty pipe, or one that was read before: check the process that writes to it, or name a file")
			}
			waited = true
		}
	}
}

// poll waits for data or the end of the file. It returns the events of poll(2), or 0 after
// the timeout.
func (s stream) poll(timeout time.Duration) (int16, error) {
	for end := time.Now().Add(timeout); ; {
		fds := []unix.PollFd{{Fd: int32(s.fd), Events: unix.POLLIN}}
		// At least a millisecond, because poll does not wait with 0.
		n, err := unix.Poll(fds, int(max(time.Until(end), time.Millisecond)/time.Millisecond))
		switch {
		case errors.Is(err, unix.EINTR): // signals of the Go runtime
		case err != nil:
			return 0, os.NewSyscallError("poll", err)
		case n > 0:
			return fds[0].Revents, nil
		case time.Now().After(end):
			return 0, nil
		}
	}
}
