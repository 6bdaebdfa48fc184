// SPDX-License-Identifier: Apache-2.0

package trace

import (
	"cmp"
	"encoding/json"
	"fmt"
	"math"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"sotto/internal/dnstest"
	"sotto/internal/e2e"
	"sotto/internal/netlab"
)

// prometheusEnv names the program prometheus, if it is not in the path.
const prometheusEnv = "SOTTO_PROMETHEUS"

// TestPrometheus: a real Prometheus scrapes a seal, with native histograms and without, and every
// query of the dashboard returns data with the labels that its legend shows.
func TestPrometheus(t *testing.T) {
	program := os.Getenv(prometheusEnv)
	if program == "" {
		var err error
		if program, err = exec.LookPath("prometheus"); err != nil {
			t.Skipf("prometheus is not installed (package prometheus), and %s is not set", prometheusEnv)
		}
	}
	queries := dashboardQueries(t)
	w := e2e.New(t)
	top := w.Cgroup("metrics.slice")
	group, err := w.Lab.Below(top, "docker-"+dockerID+".scope")
	if err != nil {
		t.Fatal(err)
	}
	// The first upstream refuses connections.
	args := append([]string{"run", "--upstream", netlab.LANAddr4 + ":854#" + e2e.UpstreamName}, w.RunArgs(top)[1:]...)
	sealed := w.Start("msg=sealed", append(args, "--metrics", metricsAddr)...)
	t.Cleanup(func() { w.Stop(sealed) })
	for _, p := range []prometheus{{"127.0.0.1:9090", true}, {"127.0.0.1:9091", false}} {
		p.start(w, program)
		n := 0
		for _, q := range queries {
			if strings.Contains(q.expr, "sotto_shared_cache_") || strings.Contains(q.expr, "sotto_dnssec_") || strings.Contains(q.expr, "sotto_kernel_answers_") {
				continue // there is no shared cache, validation or answer of the kernel (queries are logged), and no such metric
			}
			what := fmt.Sprintf("%q: data of %s in %s", q.title, q.expr, p.addr)
			w.Until(what, func() bool {
				if p.hasData(t, w, q) {
					return true
				}
				// A datagram that is too short for a query, and gets no reply.
				short := w.Host.Command(t.Context(), group, "bash", "-c", "echo >/dev/udp/9.9.9.9/53")
				if out, err := short.CombinedOutput(); err != nil {
					t.Fatalf("send a datagram: %v\n%s", err, out)
				}
				// A query from the upstream, over a new connection, one from the cache, and one that fails.
				n++
				w.Upstream.EndConns(dnstest.Close)
				for _, name := range []string{fmt.Sprintf("n%d.example", n), "same.example", fmt.Sprintf("servfail%d.example", n)} {
					w.Dig(w.Host, group, "@9.9.9.9", "+tries=1", "+tcp", name)
				}
				return false
			})
		}
		if got := p.query(t, w, "count by (name, kind) (sotto_workload_info)"); len(got) != 1 || got[0].Metric["name"] != "docker:"+dockerID[:12] || got[0].Metric["kind"] != "docker" {
			t.Errorf("workloads in %s: %v", p.addr, got)
		}
		if got := p.query(t, w, "sotto_query_duration_seconds_bucket"); (len(got) == 0) != p.native {
			t.Errorf("%s has %d series of classic buckets", p.addr, len(got))
		}
	}
}

// dashboardQuery is a query of the dashboard.
type dashboardQuery struct{ title, expr, legend string }

func dashboardQueries(t *testing.T) (all []dashboardQuery) {
	t.Helper()
	text, err := os.ReadFile("../../../deploy/grafana/sotto.json")
	if err != nil {
		t.Fatal(err)
	}
	var dashboard struct {
		Panels []struct {
			Title   string
			Targets []struct{ Expr, LegendFormat string }
		}
	}
	if err := json.Unmarshal(text, &dashboard); err != nil {
		t.Fatal(err)
	}
	for _, p := range dashboard.Panels {
		for _, q := range p.Targets {
			expr := strings.NewReplacer("$__rate_interval", "20s", "$instance", ".*").Replace(q.Expr)
			all = append(all, dashboardQuery{p.Title, expr, q.LegendFormat})
		}
	}
	if len(all) < 40 {
		t.Fatalf("the dashboard has %d queries", len(all))
	}
	return all
}

// prometheus is a running Prometheus in the host's network namespace.
type prometheus struct {
	addr   string
	native bool // it stores native histograms
}

// start runs it until the end of the test.
func (p prometheus) start(w *e2e.World, program string) {
	w.T.Helper()
	dir := w.T.TempDir()
	config := filepath.Join(dir, "prometheus.yml")
	e2e.WriteFile(w.T, config, fmt.Sprintf("scrape_configs:\n- job_name: sotto\n  scrape_interval: 1s\n  static_configs: [{targets: [%q]}]\n", metricsAddr))
	args := []string{"--config.file=" + config, "--storage.tsdb.path=" + filepath.Join(dir, "data"), "--web.listen-address=" + p.addr, "--log.level=warn"}
	if p.native {
		args = append(args, "--enable-feature=native-histograms")
	}
	cmd := w.Host.Command(w.T.Context(), nil, program, args...)
	out, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		w.T.Fatal(err)
	}
	cmd.Stdout, cmd.Stderr = out, out
	if err := cmd.Start(); err != nil {
		w.T.Fatal(err)
	}
	w.T.Cleanup(func() {
		_ = cmd.Process.Signal(os.Interrupt)
		_ = cmd.Wait() // its exit status is that of the signal
		_ = out.Close()
		if text, err := os.ReadFile(out.Name()); err == nil && w.T.Failed() {
			w.T.Logf("prometheus:\n%s", text)
		}
	})
	w.Until("prometheus", func() bool {
		_, err := w.Get("http://" + p.addr + "/-/ready")
		return err == nil
	})
}

// series is an element of a query's result.
type series struct {
	Metric map[string]string
	Value  [2]any // time and value; nil for a histogram
}

func (p prometheus) query(t *testing.T, w *e2e.World, expr string) []series {
	t.Helper()
	text, err := w.Get("http://" + p.addr + "/api/v1/query?query=" + url.QueryEscape(expr))
	if err != nil {
		t.Fatalf("%s: %v", expr, err)
	}
	var answer struct {
		Status, Error string
		Data          struct{ Result []series }
	}
	if err := json.Unmarshal([]byte(text), &answer); err != nil || answer.Status != "success" {
		t.Fatalf("%s: %v, %s", expr, err, cmp.Or(answer.Error, text))
	}
	return answer.Data.Result
}

var legendLabel = regexp.MustCompile(`\{\{(\w+)\}\}`)

// hasData reports whether a query returns a number, in series that have the labels of the legend.
func (p prometheus) hasData(t *testing.T, w *e2e.World, q dashboardQuery) bool {
	t.Helper()
	found := false
	for _, s := range p.query(t, w, q.expr) {
		for _, label := range legendLabel.FindAllStringSubmatch(q.legend, -1) {
			if s.Metric[label[1]] == "" {
				t.Fatalf("%q: %s: %v has no label %s", q.title, q.expr, s.Metric, label[1])
			}
		}
		text, _ := s.Value[1].(string)
		if v, err := strconv.ParseFloat(text, 64); err == nil && !math.IsNaN(v) {
			found = true
		}
	}
	return found
}
