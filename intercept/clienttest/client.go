// SPDX-License-Identifier: Apache-2.0

package clienttest

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"sotto/internal/netlab"
)

// EnvVar is the environment variable that makes a test binary a client: its value is then
// "client". Other values are for other roles of the test binary.
const EnvVar = "SOTTO_TEST_CLIENT"

// Client is a client process, as seen by a test.
type Client struct {
	t   *testing.T
	cmd *netlab.Cmd
	in  io.WriteCloser
	out *bufio.Scanner
}

// Start starts a client on a host of the lab, in a cgroup. It exits with the test.
func Start(t *testing.T, at *netlab.Host, in *netlab.Cgroup) *Client {
	t.Helper()
	cmd := at.Command(t.Context(), in, os.Args[0])
	// By default the race detector makes every process wait for a second before it exits.
	// The runtime preempts goroutines by a signal, which would interrupt a system call (EINTR).
	cmd.Env = append(os.Environ(), EnvVar+"=client", "GORACE=atexit_sleep_ms=0", "GODEBUG=asyncpreemptoff=1")
	cmd.Stderr = os.Stderr
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	c := &Client{t, cmd, stdin, bufio.NewScanner(stdout)}
	t.Cleanup(c.Stop)
	return c
}

// PID returns the process ID of the client.
func (c *Client) PID() int { return c.cmd.Process.Pid }

// Stop makes the client exit, which closes its sockets, and waits for it. It is idempotent.
func (c *Client) Stop() {
	if c.cmd.ProcessState != nil {
		return
	}
	_ = c.in.Close()
	_ = c.cmd.Wait()
}

// Do runs one command in the client and returns its result.
func (c *Client) Do(format string, args ...any) string {
	c.t.Helper()
	c.Begin(format, args...)
	return c.Result()
}

// Begin sends a command to the client without waiting for its result.
func (c *Client) Begin(format string, args ...any) {
	c.t.Helper()
	if _, err := fmt.Fprintf(c.in, format+"\n", args...); err != nil {
		c.t.Fatalf("send to the client: %v", err)
	}
}

// Result waits for the result of a command that was started with Begin.
func (c *Client) Result() string {
	c.t.Helper()
	if !c.out.Scan() {
		c.t.Fatalf("the client exited: %v", c.out.Err())
	}
	return c.out.Text()
}

// Want runs commands and compares their results. Each line of script is
// "COMMAND => RESULT". A result that ends in "*" is a prefix.
func (c *Client) Want(script string) {
	c.t.Helper()
	for line := range strings.Lines(script) {
		command, want, ok := strings.Cut(strings.TrimSpace(line), " => ")
		if !ok {
			continue
		}
		got := c.Do("%s", command)
		if prefix, ok := strings.CutSuffix(want, "*"); ok && strings.HasPrefix(got, prefix) {
			continue
		}
		if got != want {
			c.t.Errorf("%s: got %q, want %q", command, got, want)
		}
	}
}

// Send runs the commands of a script, except those that receive, and stops the client. It
// ignores their results. If one is among the error names in allowed, it stops there and
// returns it.
func (c *Client) Send(script, allowed string) (failed string) {
	c.t.Helper()
	defer c.Stop()
	for line := range strings.Lines(script) {
		command, _, _ := strings.Cut(line, " => ")
		if strings.HasPrefix(command, "recv") {
			continue
		}
		if got := c.Do("%s", command); slices.Contains(strings.Fields(allowed), got) {
			return got
		}
	}
	return ""
}

// Main is the main function of a client process: it reads commands from standard input and
// writes one line per command to standard output. Commands that [Sockets.Run] does not know
// are passed to more, which may be nil.
func Main(more func(s Sockets, command []string) (string, error)) {
	s := make(Sockets)
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		f := strings.Fields(lines.Text())
		got, err := s.Run(f)
		if errors.Is(err, errUnknown) && more != nil {
			got, err = more(s, pad(f))
		}
		if err != nil {
			got = "error " + err.Error()
			var no unix.Errno
			if errors.As(err, &no) {
				got = unix.ErrnoName(no)
			}
		}
		fmt.Fprintln(os.Stdout, got)
	}
}

// pad appends empty arguments, so that optional ones may be read.
func pad(f []string) []string { return append(slices.Clone(f), "", "", "") }
