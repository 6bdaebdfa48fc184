// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"os"
	"strconv"

	"sotto/internal/e2e/client"
	"sotto/internal/netlab"
	"sotto/internal/netlab/labtest"
)

// Load is the client "load" in the background of a test.
type Load struct {
	Cmd *netlab.Cmd

	w   *World
	in  io.Closer
	out bytes.Buffer
}

// StartLoad sends rate queries per second from a cgroup until Stop, fewer on a slow machine; see
// [labtest.Rate].
func (w *World) StartLoad(g *netlab.Cgroup, rate int) *Load {
	w.T.Helper()
	return w.StartLoadOn(w.Host, g, rate)
}

// StartLoadOn is StartLoad on any machine, such as a container.
func (w *World) StartLoadOn(h *netlab.Host, g *netlab.Cgroup, rate int) *Load {
	w.T.Helper()
	line := Client("load", strconv.Itoa(labtest.Rate(rate)))
	r := &Load{w: w, Cmd: h.Command(context.Background(), g, line[0], line[1:]...)}
	r.Cmd.Stdout, r.Cmd.Stderr = &r.out, os.Stderr
	var err error
	if r.in, err = r.Cmd.StdinPipe(); err != nil {
		w.T.Fatal(err)
	}
	if err := r.Cmd.Start(); err != nil {
		w.T.Fatal(err)
	}
	w.T.Cleanup(func() { _ = r.Cmd.Process.Kill() }) // fails if it has exited
	return r
}

// Stop stops the load and returns its report.
func (r *Load) Stop() client.LoadReport {
	r.w.T.Helper()
	_ = r.in.Close()
	if err := r.Cmd.Wait(); err != nil {
		r.w.T.Fatalf("load: %v\n%s", err, r.out.String())
	}
	var report client.LoadReport
	if err := json.NewDecoder(&r.out).Decode(&report); err != nil {
		r.w.T.Fatal(err)
	}
	return report
}
