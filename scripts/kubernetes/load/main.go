// SPDX-License-Identifier: Apache-2.0

// Command load is a DNS client for pods that sends queries at a constant rate and accounts for each one. It asks in three
// ways in turn: over UDP from a fresh socket for each query, over one connected UDP socket, and over one TCP connection
// that stays open. No query is repeated.
//
// It prints a line of JSON for each way. The exit status is 1 if a query was lost, if an answer was wrong, or if the
// connection was reset.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/miekg/dns"
)

// maxTime bounds a run that is never stopped.
const maxTime = 30 * time.Minute

// report counts the queries of one way.
type report struct {
	Way      string  `json:"way"`
	Sent     int     `json:"sent"`
	Answered int     `json:"answered"`
	Lost     int     `json:"lost"`
	Wrong    int     `json:"wrong"`
	Reset    int     `json:"reset"` // connections
	MaxMS    float64 `json:"max_ms"`
	Example  string  `json:"example,omitempty"` // of what failed, with its time
}

func (r report) failed() bool { return r.Lost+r.Wrong+r.Reset > 0 || r.Answered != r.Sent }

// tally is a report that several goroutines add to.
type tally struct {
	mu sync.Mutex
	r  report
}

func (t *tally) add(f func(r *report)) {
	t.mu.Lock()
	defer t.mu.Unlock()
	f(&t.r)
}

func (t *tally) sent() { t.add(func(r *report) { r.Sent++ }) }

func (t *tally) lost(err error) {
	t.add(func(r *report) { r.Lost++; r.Example = example("lost", err.Error()) })
}

func (t *tally) reset(err error) {
	t.add(func(r *report) { r.Reset++; r.Example = example("reset", err.Error()) })
}

func example(what, why string) string {
	return time.Now().UTC().Format("15:04:05.000 ") + what + ": " + why
}

// reply counts a reply to a query that was sent at start.
func (t *tally) reply(m *dns.Msg, want string, start time.Time) {
	took := float64(time.Since(start).Microseconds()) / 1000
	t.add(func(r *report) {
		r.Answered++
		r.MaxMS = max(r.MaxMS, took)
		if got := result(m); !strings.Contains(" "+got+" ", " "+want+" ") {
			r.Wrong++
			r.Example = example("wrong", fmt.Sprintf("%s: %q, want %q", m.Question[0].Name, got, want))
		}
	})
}

// result returns the data of a reply's records, or its rcode if it has none.
func result(m *dns.Msg) string {
	if len(m.Answer) == 0 {
		return dns.RcodeToString[m.Rcode]
	}
	var all []string
	for _, rr := range m.Answer {
		all = append(all, strings.TrimPrefix(rr.String(), rr.Header().String()))
	}
	return strings.Join(all, " ")
}

func main() {
	var o options
	flag.StringVar(&o.server, "server", "", "`address` and port of the nameserver")
	flag.StringVar(&o.name, "name", "", "`name` to ask for; a star is replaced by the number of the query")
	flag.StringVar(&o.want, "want", "", "the `data` that one record of each answer has, or the rcode of answers without records")
	qtype := flag.String("type", "A", "record `type`")
	ways := flag.String("ways", "fresh,connected,tcp", "how to ask, `words` with commas")
	rate := flag.Int("rate", 60, "queries per second, of all ways together")
	limit := flag.Duration("for", maxTime, "`time` to run; SIGTERM and the file of --until end it earlier")
	count := flag.Int("count", 0, "`number` of queries after which to stop; 0: no limit")
	until := flag.String("until", "", "stop when this `file` exists")
	flag.DurationVar(&o.timeout, "timeout", 10*time.Second, "`time` after which a query counts as lost")
	flag.Parse()
	o.qtype = dns.StringToType[*qtype]
	if o.server == "" || o.name == "" || o.want == "" || o.qtype == 0 || *rate < 1 {
		fmt.Fprintln(os.Stderr, "load: --server, --name, --want and a valid --type and --rate are needed")
		os.Exit(2)
	}
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM, syscall.SIGINT)
	if !o.run(strings.Split(*ways, ","), *rate, *count, min(*limit, maxTime), *until, stop) {
		os.Exit(1)
	}
}

// options are those of all ways.
type options struct {
	server, name, want string
	qtype              uint16
	timeout            time.Duration
}

// question returns query n.
func (o *options) question(n int) *dns.Msg {
	m := new(dns.Msg).SetQuestion(dns.Fqdn(strings.ReplaceAll(o.name, "*", fmt.Sprint(n))), o.qtype)
	m.Id = uint16(n) // unique among the queries of one socket that are pending
	return m
}

// run sends queries until the time has passed or a stop is requested, prints the reports, and reports whether every query
// got the right answer.
func (o *options) run(names []string, rate, count int, limit time.Duration, until string, stop <-chan os.Signal) bool {
	var askers []asker
	var tallies []*tally
	for _, name := range names {
		t := &tally{r: report{Way: name}}
		a, err := o.asker(name, t)
		if err != nil {
			fmt.Fprintln(os.Stderr, "load:", err)
			os.Exit(2)
		}
		askers, tallies = append(askers, a), append(tallies, t)
	}
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	go func() {
		for ctx.Err() == nil {
			select {
			case <-stop:
				cancel()
			case <-ctx.Done():
			case <-time.After(time.Second):
				if _, err := os.Stat(until); until != "" && err == nil {
					cancel()
				}
			}
		}
	}()
	send(ctx, rate, count, func(n int) { askers[n%len(askers)].ask(n) })
	good := true
	for i, a := range askers {
		a.wait()
		good = good && !tallies[i].r.failed() && tallies[i].r.Sent > 0
		_ = json.NewEncoder(os.Stdout).Encode(tallies[i].r)
	}
	return good
}

// send calls ask at a constant rate, until ctx ends or after count calls if that is not 0. After a pause of this process,
// it catches up.
func send(ctx context.Context, rate, count int, ask func(n int)) {
	tick, start := time.NewTicker(time.Second/time.Duration(rate)), time.Now()
	defer tick.Stop()
	for n := 0; ; {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		for due := int(time.Since(start).Seconds() * float64(rate)); n < due; n++ {
			if n == count && count > 0 {
				return
			}
			ask(n)
		}
	}
}
