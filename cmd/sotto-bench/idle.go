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
	// answerTimeout stands for the latency of a query that was not answered.
	answerTimeout = time.Second

	// patience is how many unanswered queries a forwarder may have before it is
	// asked no more; all that it would have been asked then count as unanswered.
	patience = 3
)

// asked is one forwarder that is asked after pauses.
type asked struct {
	name   string
	conn   net.Conn
	n      int
	failed int             // queries that were not answered
	after  []time.Duration // the first query after each pause
}

// idleVerb asks every forwarder a few times, pauses, and times the next query of
// each. Whether an upstream closed its connections in the pause is the upstream's
// doing: bench.sh runs each peer once in front of one that does, and once in front
// of one that does not, and it is the pause alone that both have in common.
func idleVerb(ctx context.Context, args []string) error {
	f := flag.NewFlagSet("idle", flag.ContinueOnError)
	cycles := f.Int("cycles", 10, "how many pauses")
	pause := f.Duration("pause", 3*time.Second, "how long each is")
	before := f.Int("before", 10, "how many queries come before each")
	if err := f.Parse(args); err != nil {
		return err
	}
	var all []*asked
	for _, arg := range f.Args() {
		name, addr, ok := strings.Cut(arg, "=")
		if !ok {
			return fmt.Errorf("%q: want NAME=ADDR:PORT", arg)
		}
		nc, err := net.Dial("udp", addr)
		if err != nil {
			return err
		}
		defer nc.Close()
		all = append(all, &asked{name: name, conn: nc})
	}
	for cycle := range *cycles {
		for _, a := range all {
			for range *before {
				a.ask()
			}
		}
		select {
		case <-time.After(*pause):
		case <-ctx.Done():
			return ctx.Err()
		}
		// Another one first each time: the first also wakes the machine.
		for i := range all {
			a := all[(i+cycle)%len(all)]
			a.after = append(a.after, a.ask())
		}
	}
	for _, a := range all {
		slices.Sort(a.after)
		fmt.Fprintf(os.Stdout, "%s\t%.1f\n", a.name, float64(percentile(a.after, 0.5))/1e3)
	}
	return nil
}

// ask sends a query for a name that nobody asked for before, and returns how long
// its answer took.
func (a *asked) ask() time.Duration {
	if a.failed >= patience {
		return answerTimeout
	}
	took, ok := a.exchange()
	if !ok {
		a.failed++
		return answerTimeout
	}
	return took
}

func (a *asked) exchange() (took time.Duration, ok bool) {
	a.n++
	q := appendQuery(nil, fmt.Sprintf("idle-%s-%d.bench.example", strings.ReplaceAll(a.name, ".", "-"), a.n))
	q[0], q[1] = byte(a.n>>8), byte(a.n)
	started := time.Now()
	_ = a.conn.SetDeadline(started.Add(answerTimeout))
	if _, err := a.conn.Write(q); err != nil {
		return 0, false
	}
	buf := make([]byte, 4096)
	for {
		n, err := a.conn.Read(buf)
		took = time.Since(started)
		switch {
		case err != nil:
			return 0, false
		case n > 2 && buf[0] == q[0] && buf[1] == q[1]:
			return took, answered(buf[:n])
		}
	}
}
