// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os/signal"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"sotto/internal/observe"
	"sotto/internal/status"
)

func (e *env) traceCommand() *cobra.Command {
	var o options
	var f observe.Filter
	var asJSON, dropped bool
	c := &cobra.Command{
		Use:   "trace [flags]",
		Short: "Show queries as they are answered",
		Long: `  sudo sotto trace                               show all queries
  sudo sotto trace --name example.com            those for a name and all below it
  sudo sotto trace --workload nginx.service      those of a unit, container or pod
  sudo sotto trace --rcode SERVFAIL              those that failed
  sudo sotto trace --source upstream --min 100ms those that an upstream answered slowly
  sudo sotto trace --dropped                     those that got no reply

Prints one line per query, until interrupted: time, workload, process and PID (or unknown),
nameserver that was asked, name, type, rcode, source of the answer and time until the reply.
The source is cache, stale (an expired cached answer), upstream, nameserver (the original
destination, in plain DNS), local (a local resolver), rule, or sotto (an error or a refusal).

A query without a reply has no rcode, but "dropped" and the reason, and as its source sotto
(it reached Sotto), guard (a packet that was dropped on its way out) or hooks ("refused": the
program got an error when it connected or sent). "-" stands for a name that could not be read.

A reader that is too slow does not delay queries: it loses some, and their number is
printed.` + remoteHelp,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if dropped {
				f.Rcode = observe.RcodeNone
			}
			return e.trace(c, &o, f, asJSON)
		},
	}
	fs := c.Flags()
	fs.StringVar(&f.Workload, "workload", "", "only queries of this `workload`: a name such as docker:web, or a cgroup path and all below it")
	fs.StringVar(&f.Name, "name", "", "only queries for this `name` and names below it")
	fs.StringVar(&f.Type, "type", "", "only queries of this `type`, such as AAAA")
	fs.StringVar(&f.Rcode, "rcode", "", "only queries with this `rcode`, such as SERVFAIL; none: those without a reply")
	fs.BoolVar(&dropped, "dropped", false, "only queries without a reply; the same as --rcode none")
	fs.StringVar(&f.Source, "source", "", "only queries whose answer has this `source`")
	fs.DurationVar(&f.Min, "min", 0, "only queries that took at least this `time`, such as 50ms")
	fs.BoolVar(&asJSON, "json", false, "print one JSON object per line")
	c.MarkFlagsMutuallyExclusive("rcode", "dropped")
	o.remoteFlags(fs)
	return c
}

// untilInterrupted returns a context that ends with SIGINT or SIGTERM.
func untilInterrupted(ctx context.Context) (context.Context, context.CancelFunc) {
	return signal.NotifyContext(ctx, unix.SIGINT, unix.SIGTERM)
}

func (e *env) trace(c *cobra.Command, o *options, f observe.Filter, asJSON bool) error {
	ctx, stop := untilInterrupted(c.Context())
	defer stop()
	q := url.Values{}
	for key, value := range map[string]string{
		"workload": f.Workload, "name": f.Name, "type": f.Type, "rcode": f.Rcode, "source": f.Source,
	} {
		if value != "" {
			q.Set(key, value)
		}
	}
	if f.Min > 0 {
		q.Set("min", f.Min.String())
	}
	body, err := o.stream(ctx, c, http.MethodGet, "/v1/trace", q)
	if err != nil {
		return err
	}
	defer body.Close()
	err = e.printTrace(body, asJSON)
	if ctx.Err() != nil {
		return nil
	}
	if err == nil {
		err = fmt.Errorf("the running Sotto has stopped, or another one has taken over")
	}
	return err
}

// printTrace prints the records of a stream until it ends.
func (e *env) printTrace(in io.Reader, asJSON bool) error {
	lines, out, style := bufio.NewScanner(in), bufio.NewWriter(e.stdout), e.style()
	for lines.Scan() {
		if asJSON {
			out.Write(append(lines.Bytes(), '\n'))
		} else {
			var r observe.Record
			if err := json.Unmarshal(lines.Bytes(), &r); err != nil {
				return fmt.Errorf("read the trace: %w", err)
			}
			status.TraceLine(out, &r, time.Local, style)
		}
		if err := out.Flush(); err != nil {
			return err
		}
	}
	return lines.Err()
}
