// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"

	"golang.org/x/sys/unix"
)

// verbs are what the first argument chooses from. Each prints to stdout what
// bench.sh reads, and nothing else.
var verbs = map[string]func(ctx context.Context, args []string) error{
	"cert":     certVerb,
	"upstream": upstreamVerb,
	"latency":  latencyVerb,
	"idle":     idleVerb,
	"report":   reportVerb,
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGINT, unix.SIGTERM)
	defer stop()
	if len(os.Args) < 2 || verbs[os.Args[1]] == nil {
		fmt.Fprintln(os.Stderr, "bench: want cert, upstream, latency, idle or report; scripts/bench.sh calls it")
		os.Exit(2)
	}
	if err := verbs[os.Args[1]](ctx, os.Args[2:]); err != nil {
		fmt.Fprintf(os.Stderr, "bench %s: %v\n", os.Args[1], err)
		os.Exit(1)
	}
}
