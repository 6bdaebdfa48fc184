// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"

	"sotto/internal/e2e/client"
	"sotto/internal/netlab"
)

// Socket is the client "keep" in the background of a test.
type Socket struct {
	w   *World
	cmd *netlab.Cmd
	in  io.WriteCloser
	out *bufio.Scanner
	err bytes.Buffer // complete when cmd has exited
}

// OpenSocket connects a socket in a cgroup. It stays connected until the test ends.
func (w *World) OpenSocket(g *netlab.Cgroup) *Socket {
	w.T.Helper()
	line := Client("keep")
	cmd := w.Host.Command(context.Background(), g, line[0], line[1:]...)
	k := &Socket{w: w, cmd: cmd}
	cmd.Stderr = &k.err
	in, err := cmd.StdinPipe()
	if err != nil {
		w.T.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		w.T.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		w.T.Fatal(err)
	}
	k.in, k.out = in, bufio.NewScanner(out)
	w.T.Cleanup(func() {
		_ = in.Close()
		_ = cmd.Wait() // its output was read, or the test has failed
	})
	return k
}

// Ask sends another query and returns the slot that the socket is connected to.
func (k *Socket) Ask() string {
	k.w.T.Helper()
	return k.send("")
}

// AskAfterRestart is Ask after the listener was closed and opened again: it ignores errors
// from that time.
func (k *Socket) AskAfterRestart() string {
	k.w.T.Helper()
	return k.send(client.IgnoreRefused)
}

func (k *Socket) send(line string) string {
	k.w.T.Helper()
	if _, err := fmt.Fprintln(k.in, line); err != nil {
		k.w.T.Fatalf("write to the client: %v", err)
	}
	if !k.out.Scan() {
		_ = k.in.Close()
		_ = k.cmd.Wait() // its error is on stderr
		k.w.T.Fatalf("the old socket is no longer answered: %s", k.err.String())
	}
	return k.out.Text()
}
