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

// keptSocket is the client "keep": a connected socket that sends a query for each line on
// standard input, and prints the peer address that the kernel has for it: that of its slot.
func keptSocket([]string) error {
	c, err := net.Dial("udp4", "8.8.8.8:53")
	if err != nil {
		return err
	}
	defer c.Close()
	mine := fmt.Sprintf(":%04X", c.LocalAddr().(*net.UDPAddr).Port)
	buf := make([]byte, 4096)
	for in, n := bufio.NewScanner(os.Stdin), uint16(0); in.Scan(); n++ {
		// A socket reports the ICMP error of a closed listener at the next call.
		ignore := in.Text() == ignoreRefused
		_ = c.SetDeadline(time.Now().Add(8 * time.Second))
		query := packed(n, fmt.Sprintf("kept%d.example.", n))
		for _, err = c.Write(query); ignore && errors.Is(err, syscall.ECONNREFUSED); _, err = c.Write(query) {
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

// ignoreRefused is the line that makes "keep" ignore errors of the time without a listener.
const ignoreRefused = "ignore"

// kept is the client "keep" in the background of a test.
type kept struct {
	w   *world
	in  io.WriteCloser
	out *bufio.Scanner
	err *bytes.Buffer
}

// openSocket connects a socket in a cgroup. It stays connected until the test ends.
func (w *world) openSocket(g *netlab.Cgroup) *kept {
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
		_ = cmd.Wait() // its output was read, or the test has failed
	})
	return k
}

// ask sends another query and returns the slot that the socket is connected to.
func (k *kept) ask() string {
	k.w.t.Helper()
	return k.send("")
}

// askAfterRestart is ask after the listener was closed and opened again: it ignores errors
// from that time.
func (k *kept) askAfterRestart() string {
	k.w.t.Helper()
	return k.send(ignoreRefused)
}

func (k *kept) send(line string) string {
	k.w.t.Helper()
	if _, err := fmt.Fprintln(k.in, line); err != nil {
		k.w.t.Fatalf("write to the client: %v", err)
	}
	if !k.out.Scan() {
		k.w.t.Fatalf("the old socket is no longer answered: %s", k.err.String())
	}
	return k.out.Text()
}
