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

// Messages of the histories are of one size and carry the number of their query, so
// that a stream needs no framing and a capture shows which query a packet carries.
const (
	messageSize = 16

	queryTag  = '?' // from a client
	answerTag = '=' // from the listener
	plainTag  = '~' // from a nameserver of the LAN
	fenceTag  = '#' // see history.settle
	markTag   = '|' // see tape.mark
)

func message16(tag byte, number int) []byte { return fmt.Appendf(nil, "%c%015d", tag, number) }

// readMessage returns false for what is no message.
func readMessage(b []byte) (tag byte, number int, ok bool) {
	if len(b) < messageSize || strings.IndexByte("?=~#|", b[0]) < 0 {
		return 0, 0, false
	}
	number, err := strconv.Atoi(string(b[1:messageSize]))
	return b[0], number, err == nil
}

// actor is what a client process of a history keeps beside its sockets.
var actor struct {
	inbox    int // a Unix socket on which it receives descriptors
	children map[string]*heldChild
	storm    *storm
}

// history is what a client does in a history: VERB ARGUMENT…
func Command(s clienttest.Sockets, f []string) (string, error) {
	switch f[0] {
	case "dial": // SOCKET MILLIS ADDRESS
		if err := setSendTimeout(s[f[1]], millis(f[2])); err != nil {
			return "", err
		}
		return "ok", connect(s[f[1]], clienttest.Sockaddr(s[f[1]], f[3]))
	case "duel": // SOCKET ADDRESS ADDRESS: two threads connect one socket
		return duel(s[f[1]], f[2], f[3]), nil
	case "ask": // SOCKET NUMBER MILLIS [ADDRESS]
		return askNumber(s[f[1]], atoi(f[2]), millis(f[3]), f[4])
	case "replies": // SOCKET MILLIS: what was not read yet
		return strings.Join(append([]string{"ok"}, readReplies(s[f[1]], -1, millis(f[2]))...), " "), nil
	case "inbox": // PATH
		return openInbox(f[1])
	case "pass": // SOCKET PATH: to the process with that inbox
		return "ok", unix.Sendmsg(actor.inbox, []byte(f[1]), unix.UnixRights(s[f[1]]), &unix.SockaddrUnix{Name: f[2]}, 0)
	case "take":
		return takeDescriptor(s)
	case "fork": // CHILD
		child, err := forkHolder(s)
		if err == nil {
			actor.children[f[1]] = child
		}
		return "ok", err
	case "childask": // CHILD SOCKET NUMBER [ADDRESS]
		return actor.children[f[1]].ask(f[2], atoi(f[3]), f[4])
	case "childexit": // CHILD
		defer delete(actor.children, f[1])
		return "ok", actor.children[f[1]].exit()
	case "storm": // FIRST KIND ADDRESS,ADDRESS,…
		actor.storm = startStorm(atoi(f[1]), f[2], strings.Split(f[3], ","))
		return "ok", nil
	case "calm":
		return actor.storm.stop(), nil
	case "reset":
		return "ok", reset(s)
	}
	return "", fmt.Errorf("no such verb %q", f[0])
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

// errName is "ok", or the name of the error.
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

// connect goes on when a signal, as the Go runtime has them, interrupts a stream's.
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

// duel has two threads connect fd at the same time, and returns how each went.
func duel(fd int, a, b string) string {
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

// askNumber sends one query, to addr unless that is "", and reads until its reply is there or
// wait is over: "RESULT REPLY…", as readReplies has them.
func askNumber(fd, number int, wait time.Duration, addr string) (string, error) {
	// An error of an earlier query (a port that was unreachable) is not this one's.
	_, _ = unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ERROR)
	var err error
	if addr == "" {
		err = unix.Send(fd, message16(queryTag, number), unix.MSG_NOSIGNAL|unix.MSG_DONTWAIT)
	} else {
		err = unix.Sendto(fd, message16(queryTag, number), unix.MSG_NOSIGNAL|unix.MSG_DONTWAIT, clienttest.Sockaddr(fd, addr))
	}
	out := []string{errName(err)}
	if err == nil && wait > 0 {
		out = append(out, readReplies(fd, number, wait)...)
	}
	return strings.Join(out, " "), nil
}

// readReplies reads until the reply to a query is there or wait is over: "TAGNUMBER@SOURCE"
// for each, without a source on a stream, and "!ERROR" if it ended with one.
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

// openInbox makes the socket on which other processes pass descriptors to this one.
func openInbox(path string) (string, error) {
	actor.children = make(map[string]*heldChild)
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return "", err
	}
	actor.inbox = fd
	return "ok", unix.Bind(fd, &unix.SockaddrUnix{Name: path})
}

// takeDescriptor receives one socket and returns its name. A process that has the socket
// already keeps one descriptor of it.
func takeDescriptor(s clienttest.Sockets) (string, error) {
	name, control := make([]byte, 64), make([]byte, unix.CmsgSpace(4))
	n, controls, _, _, err := unix.Recvmsg(actor.inbox, name, control, unix.MSG_CMSG_CLOEXEC)
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

// reset closes every socket, also those passed and not taken, and ends the children.
func reset(s clienttest.Sockets) error {
	var errs []error
	for {
		if _, err := takeDescriptor(s); err != nil {
			break // EAGAIN: no more
		}
	}
	for name, child := range actor.children {
		errs = append(errs, child.exit())
		delete(actor.children, name)
	}
	for name, fd := range s {
		errs = append(errs, unix.Close(fd))
		delete(s, name)
	}
	return errors.Join(errs...)
}

// storm connects, asks and closes without a pause, while the instance changes.
type storm struct {
	quit, done chan struct{}
	next       int
	wrong      []string
}

// startStorm asks the addresses in turn, with the numbers from first on.
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
			s.wrong = append(s.wrong, stormAsk(s.next, kind, addrs[(s.next-first)%len(addrs)])...)
		}
	}()
	return s
}

// stormAsk asks once by a new socket, and returns the replies that are not to this query
// and from addr.
func stormAsk(number int, kind, addr string) (wrong []string) {
	fd, err := clienttest.OpenSocket(kind)
	if err != nil {
		return []string{errName(err)}
	}
	defer unix.Close(fd)
	if setSendTimeout(fd, 200*time.Millisecond) != nil || unix.Connect(fd, clienttest.Sockaddr(fd, addr)) != nil {
		return nil
	}
	got, _ := askNumber(fd, number, 200*time.Millisecond, "")
	for _, reply := range strings.Fields(got)[1:] {
		about, source, ok := strings.Cut(reply, "@")
		from, err := netip.ParseAddrPort(source)
		if ok && (about[1:] != strconv.Itoa(number) || (err == nil && from != netip.MustParseAddrPort(addr))) {
			wrong = append(wrong, reply)
		}
	}
	return wrong
}

// stop returns the first number that was not used, and the wrong replies.
func (s *storm) stop() string {
	close(s.quit)
	<-s.done
	return strings.Join(append([]string{strconv.Itoa(s.next)}, s.wrong...), " ")
}

// heldChild is a forked child: it has the sockets that its parent had then.
type heldChild struct {
	pid      int
	fds      map[string]int
	commands *os.File
	results  *os.File
}

// childOrder is what a child sends: a descriptor (-1: exit), a length and an address as
// system calls have them, the payload.
const childOrder = 4 + 4 + 28 + messageSize

// order writes it.
func (c *heldChild) order(fd int, addr string, payload []byte) ([]byte, error) {
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

// ask has the child send a query by a socket that it inherited.
func (c *heldChild) ask(name string, number int, addr string) (string, error) {
	if _, err := c.order(c.fds[name], addr, message16(queryTag, number)); err != nil {
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

// exit has the child exit, and waits for it.
func (c *heldChild) exit() error {
	_, err := c.order(-1, "", nil)
	_, waited := unix.Wait4(c.pid, nil, 0, nil)
	return errors.Join(err, waited, c.commands.Close(), c.results.Close())
}
