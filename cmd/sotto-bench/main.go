// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"slices"

	"golang.org/x/sys/unix"
)

const usage = `Usage: sotto-bench COMMAND [FLAGS]

Tools for scripts/bench.sh, which compares sotto serve with other DNS forwarders.

Commands:
  cert       create a throwaway CA and a server certificate
  upstream   serve DNS over TLS with a delay
  latency    measure latency percentiles at a fixed rate
  hits       measure cached answers in a closed loop, and the CPU time of the whole machine
  idle       measure the first query after a pause
  report     write tables, verdicts and a plot from raw results

sotto-bench COMMAND -h lists the flags of a command.
`

// commands maps the first argument to its function. Standard output contains only results,
// which bench.sh parses.
var commands = map[string]func(ctx context.Context, args []string) error{
	"cert":     certCommand,
	"upstream": upstreamCommand,
	"latency":  latencyCommand,
	"hits":     hitsCommand,
	"idle":     idleCommand,
	"report":   reportCommand,
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGINT, unix.SIGTERM)
	defer stop()
	if len(os.Args) == 2 && slices.Contains([]string{"-h", "-help", "--help", "help"}, os.Args[1]) {
		fmt.Print(usage)
		return
	}
	if len(os.Args) < 2 || commands[os.Args[1]] == nil {
		fmt.Fprint(os.Stderr, usage)
		os.Exit(2)
	}
	switch err := commands[os.Args[1]](ctx, os.Args[2:]); {
	case errors.Is(err, flag.ErrHelp): // package flag has printed the flags
	case err != nil:
		fmt.Fprintf(os.Stderr, "sotto-bench %s: %v\n", os.Args[1], err)
		os.Exit(1)
	}
}
