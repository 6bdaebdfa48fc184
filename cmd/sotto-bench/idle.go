// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"flag"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"
	"time"
)

const (
	// answerTimeout is the timeout of a query, and the latency recorded if it expires.
	answerTimeout = time.Second

	// maxFailures is the number of unanswered queries after which a forwarder receives
	// no more queries; the remaining ones count as unanswered.
	maxFailures = 3
)

// target is one forwarder that is measured.
type target struct {
	name      string
	conn      net.Conn
	sent      int
	failures  int             // unanswered queries
	latencies []time.Duration // of the first query after each pause
}

// idleCommand sends a few queries to every forwarder, pauses, and measures the latency of
// the next query to each. bench.sh runs each peer twice: with an upstream that closes idle
// connections during the pause and with one that keeps them open.
func idleCommand(ctx context.Context, args []string) error {
	f := flag.NewFlagSet("idle", flag.ContinueOnError)
	cycles := f.Int("cycles", 10, "number of pauses")
	pause := f.Duration("pause", 3*time.Second, "length of each pause")
	before := f.Int("before", 10, "number of queries before each pause")
	if err := f.Parse(args); err != nil {
		return err
	}
	var targets []*target
	for _, arg := range f.Args() {
		name, addr, ok := strings.Cut(arg, "=")
		if !ok {
			return fmt.Errorf("argument %q: want NAME=ADDR:PORT", arg)
		}
		nc, err := net.Dial("udp", addr)
		if err != nil {
			return err
		}
		defer nc.Close()
		targets = append(targets, &target{name: name, conn: nc})
	}
	for cycle := range *cycles {
		for _, t := range targets {
			for range *before {
				t.measure()
			}
		}
		select {
		case <-time.After(*pause):
		case <-ctx.Done():
			return ctx.Err()
		}
		// Rotate the order: the first query of a cycle also wakes idle cores.
		for i := range targets {
			t := targets[(i+cycle)%len(targets)]
			t.latencies = append(t.latencies, t.measure())
		}
	}
	for _, t := range targets {
		slices.Sort(t.latencies)
		fmt.Fprintf(os.Stdout, "%s\t%.1f\n", t.name, float64(percentile(t.latencies, 0.5))/1e3)
	}
	return nil
}

// measure sends a query for a new name and returns the latency of its answer.
func (t *target) measure() time.Duration {
	if t.failures >= maxFailures {
		return answerTimeout
	}
	latency, ok := t.query()
	if !ok {
		t.failures++
		return answerTimeout
	}
	return latency
}

func (t *target) query() (latency time.Duration, ok bool) {
	t.sent++
	q := appendQuery(nil, fmt.Sprintf("idle-%s-%d.bench.example", strings.ReplaceAll(t.name, ".", "-"), t.sent))
	q[0], q[1] = byte(t.sent>>8), byte(t.sent)
	started := time.Now()
	_ = t.conn.SetDeadline(started.Add(answerTimeout))
	if _, err := t.conn.Write(q); err != nil {
		return 0, false
	}
	buf := make([]byte, 4096)
	for {
		n, err := t.conn.Read(buf)
		latency = time.Since(started)
		switch {
		case err != nil:
			return 0, false
		case n > 2 && buf[0] == q[0] && buf[1] == q[1]:
			return latency, answered(buf[:n])
		}
	}
}
