// SPDX-License-Identifier: Apache-2.0

package trace

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"

	"sotto/intercept/feature"
	"sotto/internal/e2e"
	"sotto/internal/netlab"
	"sotto/internal/netlab/labtest"
	"sotto/internal/observe"
)

// unanswered are the queries of TestDropped in the order in which they are sent, and what a trace
// shows of them. The client is the test itself.
var unanswered = []struct {
	args   []string
	line   string
	sender bool // the process is known where the kernel knows the sender of a packet (6.16)
}{
	{[]string{"raw", "raw.example."}, "TIME web.service CLIENT[PID] @8.8.8.8 raw.example. A → dropped guard stopped_socket (plain queries of raw sockets, or of sockets from before the seal)", true},
	{[]string{"frame", "frame.example."}, "TIME web.service CLIENT[PID] @8.8.8.8 frame.example. A → dropped guard stopped_packet (plain queries of packet sockets)", true},
	{[]string{"short", "short.example."}, "TIME web.service CLIENT[PID] @8.8.8.8 - → dropped sotto short (shorter than a DNS header)", false},
	{[]string{"response", "response.example."}, "TIME web.service CLIENT[PID] @8.8.8.8 response.example. A → dropped sotto response (a response, not a query)", false},
	{[]string{"connect", "198.19.0.30", "udp4"}, "TIME web.service CLIENT[PID] @198.19.0.30 - → refused hooks foreign (packets to virtual addresses of other workloads)", false},
	{[]string{"connect", "198.19.0.30", "tcp4"}, "TIME web.service CLIENT[PID] @198.19.0.30 - → refused hooks foreign tcp (packets to virtual addresses of other workloads)", false},
	{[]string{"share", "254"}, "TIME web.service CLIENT[PID] @100.64.0.X - → refused hooks over_quota (queries of a workload that has used its share of virtual addresses)", false},
}

// TestDropped: real programs send queries that get no reply. A trace shows each, with its
// reason, its process and what can be read of it, as JSON, in a pipe and on a terminal of 80
// columns. Filters select them.
func TestDropped(t *testing.T) {
	w := e2e.New(t)
	w.Watch()
	group := service(t, w)
	file := t.TempDir() + "/sotto.toml"
	e2e.WriteFile(t, file, "prefix4 = \"198.19.0.0/24\"\n") // few slots
	run := w.Start("msg=sealed", append(w.RunArgs(group), "--config", file)...)
	t.Cleanup(func() { w.Stop(run) })
	traces := map[string]func() string{
		"pipe":     launchTrace(t, w, "--dropped").Log,
		"json":     launchTrace(t, w, "--json").Log,
		"terminal": terminalTrace(t, w, "--rcode", "none"),
		"filtered": launchTrace(t, w, "--name", "raw.example", "--type", "A", "--workload", "web.service", "--source", "guard").Log,
		"others":   launchTrace(t, w, "--rcode", "NOERROR").Log,
	}
	for name, text := range traces {
		w.Until("the trace "+name, func() bool {
			w.Dig(w.Host, group, "@8.8.8.8", "ready.example")
			sendUnanswered(t, w, group, "raw", "start.raw.example.")
			return strings.Contains(text(), map[bool]string{false: "start.raw.example.", true: "ready.example."}[name == "others"])
		})
	}
	// shown is what a trace shows of the queries after the start.
	shown := func(name string) (text string) {
		for line := range strings.Lines(traces[name]()) {
			if !strings.Contains(line, "start.raw.example.") && !strings.Contains(line, "ready.example.") {
				text += line
			}
		}
		return text
	}
	for i, q := range unanswered {
		sendUnanswered(t, w, group, q.args...)
		w.Until("the line of "+strings.Join(q.args, " "), func() bool {
			for _, name := range []string{"pipe", "terminal", "json"} {
				if strings.Count(shown(name), "\n") <= i {
					return false
				}
			}
			return true
		})
	}
	var golden strings.Builder
	for _, q := range unanswered {
		if q.sender && !feature.KnowsSender() {
			q.line = strings.Replace(q.line, "CLIENT[PID]", "unknown", 1)
		}
		fmt.Fprintln(&golden, q.line)
	}
	if got := normalize(shown("pipe")); got != golden.String() {
		t.Errorf("in a pipe:\n%s\nwant:\n%s", got, golden.String())
	}
	marked := regexp.MustCompile(`→ (dropped|refused) (\w+) `).ReplaceAllString(golden.String(), "→ \x1b[31m$1\x1b[0m \x1b[02m$2\x1b[0m ")
	if got := normalize(shown("terminal")); got != marked {
		t.Errorf("on a terminal:\n%q\nwant:\n%q", got, marked)
	}
	checkDropped(t, shown("json"), group)
	for line := range strings.Lines(traces["filtered"]()) {
		if !strings.Contains(line, "raw.example. A → dropped guard ") {
			t.Errorf("filtered: %s", line)
		}
	}
	if text := traces["others"](); strings.Contains(text, "dropped") || strings.Contains(text, "refused") {
		t.Errorf("with another rcode:\n%s", text)
	}
	out, errs, code := w.Sotto("status")
	if code != 0 || !regexp.MustCompile(`\nUnanswered +response 1, short 1\n`).MatchString(out) {
		t.Errorf("status %d:\n%s%s", code, out, errs)
	}
}

// TestPassed: a guard that only counts. The query of a socket that was connected before the seal
// leaves in the clear, and the trace says so.
func TestPassed(t *testing.T) {
	w := e2e.New(t)
	group := service(t, w)
	line := e2e.Client("unanswered", "kept", "kept.example.")
	cmd := w.Host.Command(t.Context(), group, labtest.NeedTool(t, line[0]), line[1:]...)
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	first := make([]byte, len("connected\n"))
	if _, err := io.ReadFull(out, first); err != nil || string(first) != "connected\n" {
		t.Fatalf("%q, %v", first, err)
	}
	run := w.Start("msg=sealed", append(w.RunArgs(group), "--guard", "count")...)
	t.Cleanup(func() { w.Stop(run) })
	trace := launchTrace(t, w)
	w.Until("the trace", func() bool {
		w.Dig(w.Host, group, "@8.8.8.8", "ready.example")
		return strings.Contains(trace.Log(), "ready.example.")
	})
	_ = in.Close()
	if _, err := io.Copy(io.Discard, out); err != nil {
		t.Error(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
	const want = " @8.8.8.8 kept.example. A → left-in-the-clear guard stopped_socket (plain queries of raw sockets, or of sockets from before the seal)\n"
	w.Until("the query in the trace", func() bool { return strings.Contains(normalize(trace.Log()), want) })
}

// TestDropFlood: a program sends more queries that are dropped than a trace can show. The trace
// counts those that it does not show, and queries are still answered.
func TestDropFlood(t *testing.T) {
	const flood = 20_000
	w := e2e.New(t)
	w.Watch()
	group := service(t, w)
	run := w.Start("msg=sealed", w.RunArgs(group)...)
	t.Cleanup(func() { w.Stop(run) })
	trace := launchTrace(t, w, "--json")
	w.Until("the trace", func() bool {
		w.Dig(w.Host, group, "@8.8.8.8", "ready.example")
		return strings.Contains(trace.Log(), "ready.example.")
	})
	sendUnanswered(t, w, group, "flood", "flood.example.", fmt.Sprint(flood))
	w.CheckSealed("after the flood", group)
	var shown, lost uint64
	w.Until("the trace to account for all queries", func() bool {
		shown, lost = 0, 0
		for line := range strings.Lines(trace.Log()) {
			var r observe.Record
			if !strings.HasSuffix(line, "\n") {
				break
			}
			if err := json.Unmarshal([]byte(line), &r); err != nil {
				t.Fatalf("%v: %s", err, line)
			}
			lost += r.Lost
			if r.Name == "flood.example." {
				shown++
			}
		}
		return shown+lost >= flood
	})
	if shown+lost != flood || lost == 0 {
		t.Errorf("%d shown and %d lost of %d", shown, lost, flood)
	}
	t.Logf("%d shown and %d lost of %d", shown, lost, flood)
}

// TestReplyNotSent: a firewall in the listener's network namespace refuses the replies. The trace
// shows the reply, and that it was not sent.
func TestReplyNotSent(t *testing.T) {
	labtest.NeedTool(t, "nft")
	w := e2e.New(t)
	group := service(t, w)
	run := w.Start("msg=sealed", w.RunArgs(group)...)
	t.Cleanup(func() { w.Stop(run) })
	trace := launchTrace(t, w)
	w.Until("the trace", func() bool {
		w.Dig(w.Host, group, "@8.8.8.8", "ready.example")
		return strings.Contains(trace.Log(), "ready.example.")
	})
	w.Shell("nsenter --net=/run/netns/" + e2e.Instance + " nft 'table inet t { chain out { type filter hook output priority 0; udp sport 53 drop; }; }'")
	const name = "unsent.example"
	w.Dig(w.Host, group, "@8.8.8.8", "+timeout=1", name)            // a miss
	w.Dig(w.Host, group, "@8.8.8.8", "+timeout=1", "ready.example") // a hit
	const want = " → dropped sotto send_failed (the kernel refused to send the reply: sendmmsg: operation not permitted)\n"
	w.Until("both replies in the trace", func() bool {
		return strings.Contains(trace.Log(), name+". A"+want) && strings.Contains(trace.Log(), "ready.example. A"+want)
	})
	if !strings.Contains(trace.Log(), name+". A → NOERROR upstream ") {
		t.Errorf("the reply that was not sent is missing:\n%s", trace.Log())
	}
}

// service makes a cgroup that is named like one of a service.
func service(t *testing.T, w *e2e.World) *netlab.Cgroup {
	t.Helper()
	g, err := w.Lab.Below(w.Cgroup("dropped.slice"), "web.service")
	if err != nil {
		t.Fatal(err)
	}
	return g
}

// launchTrace starts a trace.
func launchTrace(t *testing.T, w *e2e.World, args ...string) *e2e.Process {
	t.Helper()
	p, err := w.Launch(nil, append([]string{"trace"}, args...)...)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// terminalTrace starts a trace on a terminal of 80 columns. The function that it returns returns what
// was written, with the line ends of a file.
func terminalTrace(t *testing.T, w *e2e.World, args ...string) func() string {
	t.Helper()
	master, slave := labtest.Terminal(t, 80, 24)
	cmd := w.Command(context.Background(), nil, append([]string{"trace"}, args...)...)
	cmd.Env = append(cmd.Env, "TERM=xterm-256color", "NO_COLOR=")
	cmd.Stdout, cmd.Stderr = slave, slave
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	w.Track(cmd)
	var mu sync.Mutex
	var all strings.Builder
	go func() {
		buf := make([]byte, 4096)
		for {
			n, err := master.Read(buf)
			if err != nil {
				return
			}
			mu.Lock()
			all.Write(buf[:n])
			mu.Unlock()
		}
	}()
	t.Cleanup(func() {
		_ = cmd.Process.Signal(os.Interrupt)
		if err := cmd.Wait(); err != nil {
			t.Errorf("the trace on a terminal: %v", err)
		}
	})
	return func() string {
		mu.Lock()
		defer mu.Unlock()
		return strings.ReplaceAll(all.String(), "\r\n", "\n")
	}
}

// sendUnanswered runs the client in the group.
func sendUnanswered(t *testing.T, w *e2e.World, group *netlab.Cgroup, args ...string) {
	t.Helper()
	line := e2e.Client("unanswered", args...)
	if out, err := w.Host.Command(t.Context(), group, labtest.NeedTool(t, line[0]), line[1:]...).CombinedOutput(); err != nil {
		t.Fatalf("%v: %v\n%s", args, err, out)
	}
}

var changing = []struct {
	is *regexp.Regexp
	as string
}{
	{regexp.MustCompile(`(?m)^\d\d:\d\d:\d\d\.\d\d\d`), "TIME"},
	{regexp.MustCompile(regexp.QuoteMeta(comm()) + `\[\d+\]`), "CLIENT[PID]"},
	{regexp.MustCompile(`@100\.64\.0\.\d+`), "@100.64.0.X"},
}

// comm returns the name that the kernel has for this program, of which it keeps 15 bytes.
func comm() string {
	name := filepath.Base(os.Args[0])
	return name[:min(15, len(name))]
}

// normalize replaces what is different in each run.
func normalize(text string) string {
	for _, c := range changing {
		text = c.is.ReplaceAllString(text, c.as)
	}
	return text
}

// checkDropped checks the fields of the records as JSON, in the order of unanswered.
func checkDropped(t *testing.T, text string, group *netlab.Cgroup) {
	t.Helper()
	var got []observe.Record
	for line := range strings.Lines(text) {
		var r observe.Record
		if err := json.Unmarshal([]byte(line), &r); err != nil {
			t.Fatalf("%v: %s", err, line)
		}
		if r.Dropped != "" {
			got = append(got, r)
		}
	}
	if len(got) != len(unanswered) {
		t.Fatalf("%d records, want %d:\n%s", len(got), len(unanswered), text)
	}
	for i, r := range got {
		if r.Time.IsZero() || !strings.HasSuffix(group.Path, r.Workload) || r.WorkloadName != "web.service" || r.Rcode != "" || r.Error == "" || r.Lost > 0 || r.Passed {
			t.Errorf("%v: %+v", unanswered[i].args, r)
		}
		known := r.Source != "sotto" && (!unanswered[i].sender || feature.KnowsSender())
		if known && (r.Process.PID == 0 || r.Process.UID != os.Getuid()) {
			t.Errorf("%v: process %+v", unanswered[i].args, r.Process)
		}
	}
	if client := got[0].Client.String(); client != "10.77.0.2:40000" {
		t.Errorf("the raw query is from %s", client)
	}
	if client := got[1].Client.String(); client != "10.77.0.2:40000" {
		t.Errorf("the frame is from %s", client)
	}
	if got[4].Client.IsValid() {
		t.Errorf("what a hook refused is from %v", got[4].Client)
	}
}
