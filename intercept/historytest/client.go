// SPDX-License-Identifier: Apache-2.0

package historytest

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"sotto/intercept/clienttest"
)

// Messages have a fixed size and contain the number of their query, so that a stream needs no
// framing, and a capture shows to which query a packet belongs.
const (
	messageSize = 16

	queryTag  = '?' // from a client
	answerTag = '=' // from the listener
	plainTag  = '~' // from a nameserver of the LAN
	fenceTag  = '#' // see runner.settle
	markTag   = '|' // see recording.mark
)

func newMessage(tag byte, number int) []byte { return fmt.Appendf(nil, "%c%015d", tag, number) }

// readMessage decodes a message. It returns false if b is not one.
func readMessage(b []byte) (tag byte, number int, ok bool) {
	if len(b) < messageSize || strings.IndexByte("?=~#|", b[0]) < 0 {
		return 0, 0, false
	}
	number, err := strconv.Atoi(string(b[1:messageSize]))
	return b[0], number, err == nil
}

// state is the state of a client process in addition to its sockets.
var state struct {
	inbox    int // a Unix socket on which it receives descriptors
	children map[string]*child
	storm    *storm
}

// Command executes a command of a client in a history: VERB ARGUMENT… It is the argument of
// [clienttest.Main].
func Command(s clienttest.Sockets, f []string) (string, error) {
	switch f[0] {
	case "dial": // SOCKET MILLIS ADDRESS
		if err := setSendTimeout(s[f[1]], millis(f[2])); err != nil {
			return "", err
		}
		return "ok", connect(s[f[1]], clienttest.Sockaddr(s[f[1]], f[3]))
	case "race": // SOCKET ADDRESS ADDRESS: two threads connect one socket
		return race(s[f[1]], f[2], f[3]), nil
	case "ask": // SOCKET NUMBER MILLIS [ADDRESS]
		return sendQuery(s[f[1]], atoi(f[2]), millis(f[3]), f[4])
	case "replies": // SOCKET MILLIS: replies that were not read yet
		return strings.Join(append([]string{"ok"}, readReplies(s[f[1]], -1, millis(f[2]))...), " "), nil
	case "inbox": // PATH
		return openInbox(f[1])
	case "pass": // SOCKET PATH: passes the socket to the process with that inbox
		return "ok", unix.Sendmsg(state.inbox, []byte(f[1]), unix.UnixRights(s[f[1]]), &unix.SockaddrUnix{Name: f[2]}, 0)
	case "receive":
		return receiveDescriptor(s)
	case "fork": // CHILD
		child, err := forkChild(s)
		if err == nil {
			state.children[f[1]] = child
		}
		return "ok", err
	case "childask": // CHILD SOCKET NUMBER [ADDRESS]
		return state.children[f[1]].ask(f[2], atoi(f[3]), f[4])
	case "childexit": // CHILD
		defer delete(state.children, f[1])
		return "ok", state.children[f[1]].exit()
	case "storm": // FIRST KIND ADDRESS,ADDRESS,…
		state.storm = startStorm(atoi(f[1]), f[2], strings.Split(f[3], ","))
		return "ok", nil
	case "endstorm":
		return state.storm.stop(), nil
	case "reset":
		return "ok", reset(s)
	}
	return "", fmt.Errorf("unknown command %q", f[0])
}

func atoi(s string) int {
	n, _ := strconv.Atoi(s)
	return n
}

func millis(s string) time.Duration { return time.Duration(atoi(s)) * time.Millisecond }

func setSendTimeout(fd int, d time.Duration) error {
	wait := unix.NsecToTimeval(int64(d))
	return unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &wait)
}

// errName returns "ok", or the name of the error.
func errName(err error) string {
	var no unix.Errno
	switch {
	case err == nil:
		return "ok"
	case errors.As(err, &no):
		return unix.ErrnoName(no)
	}
	return strings.ReplaceAll(err.Error(), " ", "_")
}

// connect continues when a signal of the Go runtime interrupts the connect of a stream.
func connect(fd int, to unix.Sockaddr) error {
	err := unix.Connect(fd, to)
	for interrupted := err == unix.EINTR; interrupted; {
		if err = unix.Connect(fd, to); err == unix.EISCONN {
			return nil
		}
		interrupted = err == unix.EINTR
	}
	return err
}

// race connects fd in two threads at the same time, and returns both results.
func race(fd int, a, b string) string {
	var results [2]error
	var wg sync.WaitGroup
	var ready atomic.Int32
	for n, addr := range []string{a, b} {
		to := clienttest.Sockaddr(fd, addr)
		wg.Go(func() {
			runtime.LockOSThread()
			defer runtime.UnlockOSThread()
			ready.Add(1)
			for end := time.Now().Add(time.Second); ready.Load() < 2 && time.Now().Before(end); {
			}
			results[n] = connect(fd, to)
		})
	}
	wg.Wait()
	return errName(results[0]) + " " + errName(results[1])
}

// sendQuery sends one query, to addr unless that is "", and reads until its reply arrives or
// wait has passed. It returns "RESULT REPLY…", with replies in the format of readReplies.
func sendQuery(fd, number int, wait time.Duration, addr string) (string, error) {
	// Discard the error of an earlier query (port unreachable).
	_, _ = unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ERROR)
	var err error
	if addr == "" {
		err = unix.Send(fd, newMessage(queryTag, number), unix.MSG_NOSIGNAL|unix.MSG_DONTWAIT)
	} else {
		err = unix.Sendto(fd, newMessage(queryTag, number), unix.MSG_NOSIGNAL|unix.MSG_DONTWAIT, clienttest.Sockaddr(fd, addr))
	}
	out := []string{errName(err)}
	if err == nil && wait > 0 {
		out = append(out, readReplies(fd, number, wait)...)
	}
	return strings.Join(out, " "), nil
}

// readReplies reads until the reply to a query arrives or wait has passed. It returns
// "TAGNUMBER@SOURCE" for each reply, without a source on a stream, and "!ERROR" if reading
// failed.
func readReplies(fd, number int, wait time.Duration) []string {
	var out []string
	b := make([]byte, 64*messageSize)
	for end := time.Now().Add(wait); ; {
		n, from, err := unix.Recvfrom(fd, b, unix.MSG_DONTWAIT)
		if errors.Is(err, unix.EAGAIN) {
			left := time.Until(end)
			if left <= 0 {
				return out
			}
			poll := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
			_, _ = unix.Poll(poll, int(left/time.Millisecond)+1)
			continue
		}
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return append(out, "!"+errName(err))
		}
		if n == 0 {
			return append(out, "!EOF")
		}
		source := ""
		if from != nil {
			source = clienttest.AddrString(from)
		}
		done := false
		for at := 0; at < n; at += messageSize {
			tag, got, ok := readMessage(b[at:n])
			if !ok {
				return append(out, "!garbage")
			}
			out = append(out, fmt.Sprintf("%c%d@%s", tag, got, source))
			done = done || got == number
		}
		if done {
			return out
		}
	}
}

// openInbox opens the Unix socket by which other processes pass sockets to this one.
func openInbox(path string) (string, error) {
	state.children = make(map[string]*child)
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return "", err
	}
	state.inbox = fd
	return "ok", unix.Bind(fd, &unix.SockaddrUnix{Name: path})
}

// receiveDescriptor receives one socket and returns its name. If the process has the socket
// already, it closes the received descriptor.
func receiveDescriptor(s clienttest.Sockets) (string, error) {
	name, control := make([]byte, 64), make([]byte, unix.CmsgSpace(4))
	n, controls, _, _, err := unix.Recvmsg(state.inbox, name, control, unix.MSG_CMSG_CLOEXEC)
	if err != nil {
		return "", err
	}
	messages, err := unix.ParseSocketControlMessage(control[:controls])
	if err != nil || len(messages) != 1 {
		return "", fmt.Errorf("%d control messages: %w", len(messages), err)
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil {
		return "", err
	}
	if _, has := s[string(name[:n])]; has {
		return string(name[:n]), unix.Close(fds[0])
	}
	s[string(name[:n])] = fds[0]
	return string(name[:n]), nil
}

// reset closes all sockets, including passed ones that were not received, and stops the
// children.
func reset(s clienttest.Sockets) error {
	var errs []error
	for {
		if _, err := receiveDescriptor(s); err != nil {
			break // EAGAIN: the inbox is empty
		}
	}
	for name, child := range state.children {
		errs = append(errs, child.exit())
		delete(state.children, name)
	}
	for name, fd := range s {
		errs = append(errs, unix.Close(fd))
		delete(s, name)
	}
	return errors.Join(errs...)
}

// storm sends queries continuously, each by a new socket, while the instance changes.
type storm struct {
	quit, done chan struct{}
	next       int
	wrong      []string
}

// startStorm sends queries to the addresses in turn, with numbers starting at first.
func startStorm(first int, kind string, addrs []string) *storm {
	s := &storm{quit: make(chan struct{}), done: make(chan struct{}), next: first}
	go func() {
		defer close(s.done)
		for ; ; s.next++ {
			select {
			case <-s.quit:
				return
			case <-time.After(300 * time.Microsecond):
			}
			s.wrong = append(s.wrong, stormQuery(s.next, kind, addrs[(s.next-first)%len(addrs)])...)
		}
	}()
	return s
}

// stormQuery sends one query by a new socket, and returns replies to other queries or from
// other addresses.
func stormQuery(number int, kind, addr string) (wrong []string) {
	fd, err := clienttest.OpenSocket(kind)
	if err != nil {
		return []string{errName(err)}
	}
	defer unix.Close(fd)
	if setSendTimeout(fd, 200*time.Millisecond) != nil || unix.Connect(fd, clienttest.Sockaddr(fd, addr)) != nil {
		return nil
	}
	got, _ := sendQuery(fd, number, 200*time.Millisecond, "")
	for _, reply := range strings.Fields(got)[1:] {
		about, source, ok := strings.Cut(reply, "@")
		from, err := netip.ParseAddrPort(source)
		if ok && (about[1:] != strconv.Itoa(number) || (err == nil && from != netip.MustParseAddrPort(addr))) {
			wrong = append(wrong, reply)
		}
	}
	return wrong
}

// stop stops the storm. It returns the first unused number and the wrong replies.
func (s *storm) stop() string {
	close(s.quit)
	<-s.done
	return strings.Join(append([]string{strconv.Itoa(s.next)}, s.wrong...), " ")
}

// child is a forked child. It has the sockets that its parent had at that time.
type child struct {
	pid      int
	fds      map[string]int
	commands *os.File
	results  *os.File
}

// requestSize is the size of a request to a child: a descriptor (-1: exit), the length of an
// address and the address in the format of system calls, and the payload.
const requestSize = 4 + 4 + 28 + messageSize

// request sends a request to the child.
func (c *child) request(fd int, addr string, payload []byte) ([]byte, error) {
	b := binary.NativeEndian.AppendUint32(nil, uint32(fd))
	var to []byte
	if addr != "" {
		to = clienttest.RawAddr(addr)
	}
	b = binary.NativeEndian.AppendUint32(b, uint32(len(to)))
	b = append(append(b, to...), make([]byte, 28-len(to))...)
	b = append(append(b, payload...), make([]byte, messageSize-len(payload))...)
	_, err := c.commands.Write(b)
	return b, err
}

// ask makes the child send a query by a socket that it inherited.
func (c *child) ask(name string, number int, addr string) (string, error) {
	if _, err := c.request(c.fds[name], addr, newMessage(queryTag, number)); err != nil {
		return "", err
	}
	var result [4]byte
	if _, err := c.results.Read(result[:]); err != nil {
		return "", err
	}
	if no := binary.NativeEndian.Uint32(result[:]); no != 0 {
		return unix.ErrnoName(unix.Errno(no)), nil
	}
	return "ok", nil
}

// exit makes the child exit, and waits for it.
func (c *child) exit() error {
	_, err := c.request(-1, "", nil)
	_, waited := unix.Wait4(c.pid, nil, 0, nil)
	return errors.Join(err, waited, c.commands.Close(), c.results.Close())
}
