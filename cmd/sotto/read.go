// SPDX-License-Identifier: Apache-2.0

package main

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

	// maxConfig is more than anyone writes by hand or program.
	maxConfig = 16 << 20

	// writerWait is how long a pipe may be without a process that writes to it. It is for
	// one that starts at the same time.
	writerWait = 5 * time.Second

	// writeWait is how long that process may then let the next bytes wait. It may well ask
	// a server for them.
	writeWait = time.Minute
)

// readFile reads a file that a setting names; it is planFor's read.
func readFile(file string) ([]byte, error) { return readAtMost(file, maxFile) }

// readAtMost reads the file called name, which may also be a pipe (a shell's <(CMD),
// /dev/stdin) or a character device (/dev/null). It returns an error if that is longer
// than most bytes, or if it is a pipe and nothing comes.
func readAtMost(name string, most int) ([]byte, error) {
	s, err := openStream(name, most)
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

// stream is an open file to read to its end.
type stream struct {
	fd            int // does not block
	most          int
	pipe          bool
	writer, write time.Duration // writerWait and writeWait
}

// openStream opens what [readAtMost] reads. The caller closes its descriptor.
func openStream(name string, most int) (stream, error) {
	// Not blocking: opening a named pipe would wait for a writer.
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
	return stream{fd: fd, most: most, pipe: st.Mode&unix.S_IFMT == unix.S_IFIFO, writer: writerWait, write: writeWait}, nil
}

// read reads to the end. An empty pipe is an error, not an empty file: what was to write
// to it has failed, or it was read before (by a reload, from the same <(CMD)).
func (s stream) read() ([]byte, error) {
	var text []byte
	chunk := make([]byte, 64<<10)
	waited := false
	for {
		n, err := unix.Read(s.fd, chunk)
		switch {
		case errors.Is(err, unix.EINTR):
		case errors.Is(err, unix.EAGAIN): // there is a writer
			events, err := s.wait(s.write)
			if err != nil {
				return nil, err
			}
			if events == 0 {
				return nil, fmt.Errorf("nothing came for %s: see what is to write to it, or name a file", s.write)
			}
		case err != nil:
			return nil, err
		case n > 0:
			if text = append(text, chunk[:n]...); len(text) > s.most {
				return nil, fmt.Errorf("it is longer than %d MiB", s.most>>20)
			}
		case len(text) > 0 || !s.pipe:
			return text, nil
		case waited:
			return nil, errors.New("it is a pipe that no process writes to: start that process first, or name a file")
		default:
			events, err := s.wait(s.writer)
			if err != nil {
				return nil, err
			}
			if events != 0 && events&unix.POLLIN == 0 {
				return nil, errors.New("it is a pipe with nothing in it, or nothing more: see that what writes to it succeeds, or name a file")
			}
			waited = true
		}
	}
}

// wait waits for something to read, or the end of it, for a time. It returns what poll(2)
// says; 0 when the time is over.
func (s stream) wait(d time.Duration) (int16, error) {
	for end := time.Now().Add(d); ; {
		fds := []unix.PollFd{{Fd: int32(s.fd), Events: unix.POLLIN}}
		// At least a millisecond: 0 would not wait.
		n, err := unix.Poll(fds, int(max(time.Until(end), time.Millisecond)/time.Millisecond))
		switch {
		case errors.Is(err, unix.EINTR): // the Go runtime's own signals
		case err != nil:
			return 0, os.NewSyscallError("poll", err)
		case n > 0:
			return fds[0].Revents, nil
		case time.Now().After(end):
			return 0, nil
		}
	}
}
