// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"syscall"
	"time"

	"sotto/internal/netlab"
)

// keptSocket is the client "keep": one connected socket that asks whenever it is told,
// and says what its kernel's idea of its peer is, which is the slot.
func keptSocket([]string) error {
	c, err := net.Dial("udp4", "8.8.8.8:53")
	if err != nil {
		return err
	}
	defer c.Close()
	mine := fmt.Sprintf(":%04X", c.LocalAddr().(*net.UDPAddr).Port)
	buf := make([]byte, 4096)
	for in, n := bufio.NewScanner(os.Stdin), uint16(0); in.Scan(); n++ {
		// A socket hears of a listener that was gone with the next call.
		past := in.Text() == "past"
		_ = c.SetDeadline(time.Now().Add(8 * time.Second))
		query := packed(n, fmt.Sprintf("kept%d.example.", n))
		for _, err = c.Write(query); past && errors.Is(err, syscall.ECONNREFUSED); _, err = c.Write(query) {
		}
		if err != nil {
			return err
		}
		got, err := c.Read(buf)
		if err == nil {
			err = checkReply(buf[:got], n)
		}
		if err != nil {
			return err
		}
		table, err := os.ReadFile("/proc/thread-self/net/udp")
		if err != nil {
			return err
		}
		for line := range strings.Lines(string(table)) {
			if f := strings.Fields(line); len(f) > 2 && strings.HasSuffix(f[1], mine) {
				fmt.Println(f[2])
			}
		}
	}
	return nil
}

// kept is such a client beside a test.
type kept struct {
	w   *world
	in  io.WriteCloser
	out *bufio.Scanner
	err *bytes.Buffer
}

// keepAsking connects a socket in a cgroup, which stays connected until the test ends.
func (w *world) keepAsking(g *netlab.Cgroup) *kept {
	w.t.Helper()
	cmd := w.host.Command(context.Background(), g, executable())
	cmd.Env = append(os.Environ(), selfEnv+"=keep", "GORACE=atexit_sleep_ms=0")
	k := &kept{w: w, err: new(bytes.Buffer)}
	cmd.Stderr = k.err
	in, err := cmd.StdinPipe()
	if err != nil {
		w.t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		w.t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		w.t.Fatal(err)
	}
	k.in, k.out = in, bufio.NewScanner(out)
	w.t.Cleanup(func() {
		_ = in.Close()
		_ = cmd.Wait() // what it said was read, or it failed already
	})
	return k
}

// ask has it ask once more, and returns the slot that it is connected to.
func (k *kept) ask() string {
	k.w.t.Helper()
	return k.tell("")
}

// askPast is ask after the listener was gone: errors from then do not count.
func (k *kept) askPast() string {
	k.w.t.Helper()
	return k.tell("past")
}

func (k *kept) tell(how string) string {
	k.w.t.Helper()
	if _, err := fmt.Fprintln(k.in, how); err != nil {
		k.w.t.Fatalf("tell the socket: %v", err)
	}
	if !k.out.Scan() {
		k.w.t.Fatalf("the socket from before is not answered any more: %s", k.err.String())
	}
	return k.out.Text()
}
