// SPDX-License-Identifier: Apache-2.0

package metrics

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write the dashboard")

const dashboardFile = "../../deploy/grafana/sotto.json"

// selected limits expressions to the instances that are chosen in the dashboard.
const selected = `{instance=~"$instance"}`

// object is a JSON object.
type object map[string]any

// target is one query of a panel.
type target struct{ expr, legend string }

// panel is one panel of the dashboard.
type panel struct {
	title, unit string
	kind        string // of Grafana; "" is a time series
	width       int    // of 24
	targets     []target
}

func (m *Metric) selector() string { return m.Name + selected }

// last is the current value of a gauge.
func last(m *Metric, legend string) target { return target{m.selector(), legend} }

// rate is the rate of a counter by labels.
func rate(m *Metric, by ...string) target {
	return target{fmt.Sprintf("sum by (%s) (rate(%s[$__rate_interval]))", strings.Join(by, ", "), m.selector()), legendOf(by)}
}

// rateIn is rate of the series that match a further condition.
func rateIn(m *Metric, condition string) string {
	return fmt.Sprintf(`sum(rate(%s{instance=~"$instance", %s}[$__rate_interval]))`, m.Name, condition)
}

func legendOf(by []string) string { return "{{" + strings.Join(by, "}} {{") + "}}" }

// quantile is a quantile of a histogram: of the native one, or else of the classic one.
func quantile(q float64, m *Metric, by ...string) target {
	native := fmt.Sprintf("histogram_quantile(%v, sum by (%s) (rate(%s[$__rate_interval])))", q, strings.Join(by, ", "), m.selector())
	classic := fmt.Sprintf("histogram_quantile(%v, sum by (%s) (rate(%s_bucket%s[$__rate_interval])))",
		q, strings.Join(append([]string{"le"}, by...), ", "), m.Name, selected)
	return target{native + " or " + classic, fmt.Sprintf("p%.0f %s", 100*q, legendOf(by))}
}

// byName is the rate of a counter of workloads by their names, with the paths of the workloads
// replaced. Workloads of the same name, such as a container before and after it was recreated, are
// added up.
func byName(m *Metric) target {
	return target{fmt.Sprintf("sum by (name) (rate(%s[$__rate_interval]) * on (job, instance, workload) group_left (name) %s)", m.selector(), workloadInfo.selector()), "{{name}}"}
}

// ratioByName is the share of one counter of workloads in another by their names.
func ratioByName(part, all *Metric) target {
	return target{byName(part).expr + " / " + byName(all).expr, "{{name}}"}
}

// top limits a target to its ten largest series.
func top(t target) target { return target{"topk(10, " + t.expr + ")", t.legend} }

// sections are the rows of the dashboard.
var sections = []struct {
	title  string
	panels []panel
}{
	{"Overview", []panel{
		{"Ready", "short", "stat", 3, []target{last(ready, "{{instance}}")}},
		{"Version", "string", "stat", 3, []target{last(buildInfo, "{{version}}")}},
		{"Queries per second", "reqps", "stat", 4, []target{{"sum(rate(" + queries.selector() + "[$__rate_interval]))", ""}}},
		{"Answered from the cache", "percentunit", "stat", 4, []target{{rateIn(queries, `source=~"cache|stale"`) + " / sum(rate(" + queries.selector() + "[$__rate_interval]))", ""}}},
		{"SERVFAIL per second", "reqps", "stat", 4, []target{{rateIn(queries, `rcode="SERVFAIL"`) + " or vector(0)", ""}}},
		{"Upstreams that work", "short", "stat", 3, []target{{"sum(" + upstreamUp.selector() + ")", ""}}},
		{"Rules", "short", "stat", 3, []target{last(rules, "")}},
	}},
	{"Queries", []panel{
		{"Queries by source of the answer", "reqps", "", 8, []target{rate(queries, "source")}},
		{"Queries by rcode", "reqps", "", 8, []target{rate(queries, "rcode")}},
		{"Queries over TCP", "reqps", "", 8, []target{{"sum(rate(" + tcpQueries.selector() + "[$__rate_interval]))", "TCP"}}},
		{"Time to the answer", "s", "", 12, []target{quantile(0.5, queryDuration, "source"), quantile(0.99, queryDuration, "source")}},
		{"Load", "short", "", 6, []target{last(inFlight, "in flight"), last(waiting, "waiting"), last(connections, "TCP connections")}},
		{"Refused and unanswered queries", "reqps", "", 6, []target{rate(refused, "reason"), rate(unanswered, "reason")}},
	}},
	{"Workloads", []panel{
		{"Queries (ten busiest)", "reqps", "", 12, []target{top(byName(workloadQueries))}},
		{"Failed queries (ten most)", "reqps", "", 12, []target{top(byName(workloadFailed))}},
		{"Answered from the cache", "percentunit", "", 12, []target{top(ratioByName(workloadCached, workloadQueries))}},
		{"Mean time to the answer (ten slowest)", "s", "", 12, []target{top(ratioByName(workloadDuration, workloadQueries))}},
	}},
	{"Upstreams", []panel{
		{"Works", "short", "", 6, []target{last(upstreamUp, "{{group}} {{server}}"), last(upstreamUn, "not authenticated: {{server}}")}},
		{"Queries", "reqps", "", 6, []target{rate(upstreamQueries, "group", "server")}},
		{"Round trip", "s", "", 12, []target{quantile(0.5, upstreamRoundTrip, "server"), quantile(0.99, upstreamRoundTrip, "server")}},
		{"Failed queries", "reqps", "", 6, []target{rate(upstreamFailed, "group", "server")}},
		{"Errors by reason", "ops", "", 6, []target{rate(upstreamErrors, "server", "reason")}},
		{"In flight", "short", "", 6, []target{last(upstreamInFlight, "queries: {{server}}"), last(upstreamConns, "connections: {{server}}")}},
		{"Connections opened", "ops", "", 6, []target{rate(upstreamDials, "server"), {rate(upstreamDialFailures, "server").expr, "failed: {{server}}"}, {rate(upstreamResumed, "server").expr, "resumed: {{server}}"}}},
		{"Time to connect", "s", "", 12, []target{quantile(0.5, upstreamOpened, "server"), quantile(0.99, upstreamOpened, "server")}},
		{"Certificates expire in", "s", "", 12, []target{{upstreamExpiry.selector() + " - time()", "{{server}}"}}},
	}},
	{"DNSSEC", []panel{
		{"Answers by result", "reqps", "", 8, []target{rate(validated, "group", "result")}},
		{"Bogus answers by reason", "reqps", "", 8, []target{rate(bogusAnswers, "group", "reason")}},
		{"Lookups and signatures", "ops", "", 8, []target{{rate(validationLookups, "group").expr, "lookups: {{group}}"}, {rate(signatures, "group").expr, "signatures: {{group}}"}}},
	}},
	{"Cache", []panel{
		{"Lookups by result", "ops", "", 8, []target{rate(cacheLookups, "result")}},
		{"Memory", "bytes", "", 8, []target{last(cacheSize, "used"), last(cacheLimit, "limit")}},
		{"Answers", "short", "", 8, []target{last(cacheEntries, "answers")}},
		{"Prefetches and evictions", "ops", "", 12, []target{{rate(cachePrefetches, "instance").expr, "prefetches"}, {rate(cacheEvictions, "instance").expr, "evictions"}}},
		{"Shared cache: lookups by result", "ops", "", 8, []target{rate(sharedLookups, "result")}},
		{"Shared cache: up, and answers stored", "short", "", 4, []target{last(sharedUp, "up"), rate(sharedWrites, "result")}},
	}},
	{"Seal (sotto run)", []panel{
		{"Sealed cgroups", "short", "stat", 3, []target{last(sealedCgroups, "")}},
		{"Virtual addresses in use", "percentunit", "", 9, []target{{slotsUsed.selector() + " / " + slotsLimit.selector(), "{{instance}}"}}},
		{"Guard: packets by reason", "pps", "", 12, []target{rate(guardPackets, "reason")}},
		{"Events of the hooks", "ops", "", 24, []target{rate(hookEvents, "event")}},
		{"Answers of the kernel", "short", "", 8, []target{last(kernelAnswersOn, "enabled"), last(kernelAnswersEntries, "answers"), last(kernelAnswersLimit, "limit")}},
		{"Kernel: queries by verdict", "reqps", "", 16, []target{rate(kernelAnswersQueries, "verdict")}},
	}},
	{"Process", []panel{
		{"Processor", "percentunit", "", 8, []target{{"rate(process_cpu_seconds_total" + selected + "[$__rate_interval])", "{{instance}}"}}},
		{"Memory", "bytes", "", 8, []target{{"process_resident_memory_bytes" + selected, "resident"}, {"go_memstats_heap_inuse_bytes" + selected, "heap"}}},
		{"Goroutines and descriptors", "short", "", 8, []target{{"go_goroutines" + selected, "goroutines"}, {"process_open_fds" + selected, "descriptors"}}},
	}},
}

var datasource = object{"type": "prometheus", "uid": "${datasource}"}

// dashboard returns the dashboard as JSON, as Grafana imports it.
func dashboard() ([]byte, error) {
	var panels []object
	y, id := 0, 1
	add := func(o object, x, w, h int) {
		o["id"], o["gridPos"] = id, object{"x": x, "y": y, "w": w, "h": h}
		panels = append(panels, o)
		id++
	}
	for _, s := range sections {
		add(object{"type": "row", "title": s.title, "collapsed": false, "panels": []object{}}, 0, 24, 1)
		y++
		x, height := 0, 0
		for _, p := range s.panels {
			if x+p.width > 24 {
				x, y = 0, y+height
			}
			height = 8
			if p.kind == "stat" && s.title == "Overview" {
				height = 4
			}
			add(p.json(), x, p.width, height)
			x += p.width
		}
		y += height
	}
	var out bytes.Buffer
	enc := json.NewEncoder(&out)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", " ")
	err := enc.Encode(object{
		"title": "Sotto", "uid": "sotto", "tags": []string{"dns", "sotto"}, "schemaVersion": 39, "editable": true,
		"refresh": "30s", "time": object{"from": "now-1h", "to": "now"}, "timezone": "browser", "panels": panels,
		"templating": object{"list": []object{
			{"name": "datasource", "type": "datasource", "query": "prometheus", "label": "Data source"},
			{"name": "instance", "type": "query", "label": "Instance", "datasource": datasource, "refresh": 2, "multi": true, "includeAll": true,
				"allValue": ".*", "query": object{"query": "label_values(" + ready.Name + ", instance)", "refId": "instance"}, "current": object{"text": "All", "value": "$__all"}},
		}},
	})
	return out.Bytes(), err
}

func (p *panel) json() object {
	kind := p.kind
	if kind == "" {
		kind = "timeseries"
	}
	var targets []object
	for i, t := range p.targets {
		targets = append(targets, object{"refId": string(rune('A' + i)), "datasource": datasource, "expr": t.expr, "legendFormat": t.legend})
	}
	o := object{
		"type": kind, "title": p.title, "datasource": datasource, "targets": targets,
		"fieldConfig": object{"defaults": object{"unit": p.unit, "min": 0}, "overrides": []object{}},
	}
	if p.unit == "string" {
		o["options"] = object{"textMode": "name"}
	}
	return o
}

// TestDashboard: deploy/grafana/sotto.json is the one that the list of metrics produces, and
// shows every metric. After a change, run: go test ./internal/metrics -update
func TestDashboard(t *testing.T) {
	want, err := dashboard()
	if err != nil {
		t.Fatal(err)
	}
	if *update {
		if err := os.WriteFile(dashboardFile, want, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(dashboardFile)
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("%s is not up to date (%v): run go test ./internal/metrics -update", dashboardFile, err)
	}
	for _, m := range List() {
		if !strings.Contains(string(got), m.Name+"{") && !strings.Contains(string(got), m.Name+"_bucket{") {
			t.Errorf("the dashboard does not show %s", m.Name)
		}
	}
}
