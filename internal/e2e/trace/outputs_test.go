// SPDX-License-Identifier: Apache-2.0

package trace

import (
	"encoding/json"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/miekg/dns"

	"sotto/internal/dnstap/dnstaptest"
	"sotto/internal/e2e"
	"sotto/internal/observe"
)

const metricsAddr = "127.0.0.1:9053"

// outputs are what a Sotto writes about queries.
type outputs struct {
	config, log, taps string
	process           *e2e.Process // whose log has the queries
}

// newOutputs writes a configuration with all of them.
func newOutputs(t *testing.T) *outputs {
	dir := t.TempDir()
	o := &outputs{config: filepath.Join(dir, "sotto.toml"), log: filepath.Join(dir, "log"), taps: filepath.Join(dir, "taps")}
	e2e.WriteFile(t, o.config, fmt.Sprintf("metrics = %q\nquery-log = %q\ndnstap-file = %q\ndnstap-messages = [\"client\"]\n", metricsAddr, o.log, o.taps))
	return o
}

// check compares all outputs with what the clients have sent.
func (o *outputs) check(w *e2e.World, clients []*client) {
	w.T.Helper()
	want := map[string]int{}
	for _, c := range clients {
		want[c.comm+" of "+c.workload+" to "+c.to] = queries
	}
	w.Until("the query log", func() bool { return len(o.logged(w.T)) >= len(clients)*queries })
	compare(w.T, "query log", o.logged(w.T), want)
	// Client messages: a query and a response each.
	w.Until("the dnstap file", func() bool { return len(o.tapped(w.T)) >= len(clients)*queries })
	compare(w.T, "dnstap", o.tapped(w.T), want)
	compare(w.T, "log", o.printed(), want)
	o.checkMetrics(w, clients)
	o.checkNames(w)
}

// compare counts the lines of an output.
func compare(t *testing.T, what string, lines []string, want map[string]int) {
	t.Helper()
	got := map[string]int{}
	for _, l := range lines {
		got[l]++
	}
	for l, n := range want {
		if got[l] != n {
			t.Errorf("%s: %d times %q, want %d; it has %v", what, got[l], l, n, got)
		}
	}
}

// describe returns a line about a query of a client, or "" for other queries.
func describe(name, workload string, to netip.Addr) string {
	f := strings.Split(name, ".")
	if len(f) < 2 || !regexp.MustCompile(`^n[0-9]`).MatchString(f[0]) {
		return ""
	}
	return fmt.Sprintf("%s of %s to %s", f[1], workload, to)
}

func (o *outputs) logged(t *testing.T) (lines []string) {
	t.Helper()
	text, err := os.ReadFile(o.log)
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		var r observe.Record
		if !strings.HasSuffix(line, "\n") {
			continue // it is being written
		}
		if err := json.Unmarshal([]byte(line), &r); err != nil {
			t.Fatalf("%v: %s", err, line)
		}
		if l := describe(r.Name, r.WorkloadName, r.Nameserver.Addr()); l != "" {
			lines = append(lines, l)
		}
	}
	return lines
}

func (o *outputs) tapped(t *testing.T) (lines []string) {
	t.Helper()
	for _, m := range dnstaptest.Read(t, o.taps) {
		var msg dns.Msg
		if m.QueryMessage == nil || msg.Unpack(m.QueryMessage) != nil {
			continue
		}
		to, _ := netip.AddrFromSlice(m.ResponseAddress)
		if l := describe(msg.Question[0].Name, m.Extra.Name, to); l != "" {
			lines = append(lines, l)
		}
	}
	return lines
}

// printed returns what the log says with log-queries.
func (o *outputs) printed() (lines []string) {
	for _, m := range regexp.MustCompile(`msg=query name=(\S+) .* nameserver=(\S+) .* workload_name=(\S+)`).FindAllStringSubmatch(o.process.Log(), -1) {
		host, _, _ := net.SplitHostPort(strings.Trim(m[2], `"`))
		to, _ := netip.ParseAddr(host)
		if l := describe(m[1], m[3], to); l != "" {
			lines = append(lines, l)
		}
	}
	return lines
}

// checkMetrics: each workload has its queries, and one series with its name.
func (o *outputs) checkMetrics(w *e2e.World, clients []*client) {
	w.T.Helper()
	text, err := w.Get("http://" + metricsAddr + "/metrics")
	if err != nil {
		w.T.Fatal(err)
	}
	least := map[string]int{}
	for _, c := range clients {
		least[c.workload] += queries
	}
	for name, n := range least {
		info := regexp.MustCompile(`(?m)^sotto_workload_info\{kind="(\w+)",name="`+regexp.QuoteMeta(name)+`",workload="([^"]+)"\} 1$`).FindAllStringSubmatch(text, -1)
		if len(info) != 1 {
			w.T.Errorf("%s has %d series", name, len(info))
			continue
		}
		kind, _, ok := strings.Cut(name, ":")
		if !ok {
			kind = "unit"
		}
		count := 0
		at := strings.Index(text, "\nsotto_workload_queries_total{workload=\""+info[0][2]+"\"} ")
		if at >= 0 {
			fmt.Sscan(text[at+strings.Index(text[at:], "} ")+2:], &count)
		}
		if info[0][1] != kind || count < n {
			w.T.Errorf("%s: kind %s, %d queries, want %s and at least %d", name, info[0][1], count, kind, n)
		}
	}
	page, err := w.Get("http://" + metricsAddr + "/")
	if err != nil || !strings.Contains(page, "<td>docker:shop<small") {
		w.T.Errorf("the page: %v\n%s", err, page)
	}
}

// checkNames: other commands accept names of workloads.
func (o *outputs) checkNames(w *e2e.World) {
	w.T.Helper()
	for _, name := range []string{"docker:shop", "shop"} {
		out, errs, code := w.Sotto("explain", "www.example", "--workload", name)
		if code != 0 || !strings.Contains(out, "docker-"+dockerID) || !strings.Contains(out, "docker:shop") {
			w.T.Errorf("explain: status %d\n%s%s", code, out, errs)
		}
	}
	if _, errs, code := w.Sotto("explain", "www.example", "--workload", "docker:none"); code == 0 || !strings.Contains(errs, "sotto status") {
		w.T.Errorf("explain of an unknown name: status %d\n%s", code, errs)
	}
	for _, prefix := range []string{"docker:", "/"} {
		if out, _, _ := w.Sotto("__complete", "top", "--workload", prefix); !strings.Contains(out, "docker:shop") {
			w.T.Errorf("completion of %s: %s", prefix, out)
		}
	}
}
