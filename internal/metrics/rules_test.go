// SPDX-License-Identifier: Apache-2.0

package metrics

import (
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
)

const (
	rulesFile     = "../../deploy/prometheus/alerts.yml"
	rulesTestFile = "../../deploy/prometheus/alerts_test.yml"

	// promtoolEnv names the program promtool, if it is not in the path.
	promtoolEnv = "SOTTO_PROMTOOL"
)

// selectorPattern matches the name of a metric of Sotto, of its process or of the Go runtime.
var selectorPattern = regexp.MustCompile(`\b(?:sotto|process|go)_[a-z0-9_]+`)

// known returns the names of all series.
func known(t *testing.T) map[string]bool {
	t.Helper()
	out := map[string]bool{}
	for _, m := range List() {
		out[m.Name] = true
		if m.Type == Histogram {
			out[m.Name+"_bucket"], out[m.Name+"_sum"], out[m.Name+"_count"] = true, true, true
		}
	}
	r := prometheus.NewRegistry()
	r.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	families, err := r.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		out[f.GetName()] = true
	}
	return out
}

// TestNames: the dashboard, the alert rules and the documentation name only metrics that exist,
// and conditions only labels that the metric has.
func TestNames(t *testing.T) {
	names := known(t)
	names["sotto_queries_per_second"] = true // made by deploy/kubernetes/forwarder/monitoring/adapter-rule.yaml
	labels := map[string][]string{}
	for _, m := range List() {
		labels[m.Name] = append(m.Labels, "instance", "job", "le")
	}
	for file, least := range map[string]int{dashboardFile: 50, rulesFile: 12, rulesTestFile: 8, "../../docs/OPERATING.md": 5} {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		found := selectorPattern.FindAllString(string(text), -1)
		if len(found) < least {
			t.Errorf("%s names %d metrics, fewer than it should", file, len(found))
		}
		for _, name := range found {
			if !names[name] {
				t.Errorf("%s names %s: no such metric", file, name)
			}
		}
		for _, sel := range regexp.MustCompile(`(sotto_[a-z0-9_]+)\{([^}]*)\}`).FindAllStringSubmatch(string(text), -1) {
			name := strings.TrimSuffix(sel[1], "_bucket")
			for _, label := range regexp.MustCompile(`(\w+)(?:=~|!~|!=|=)`).FindAllStringSubmatch(sel[2], -1) {
				if !slices.Contains(labels[name], label[1]) {
					t.Errorf("%s: %s has no label %s", file, name, label[1])
				}
			}
		}
	}
}

// promtool runs promtool, or skips the test.
func promtool(t *testing.T, args ...string) {
	t.Helper()
	path := os.Getenv(promtoolEnv)
	if path == "" {
		var err error
		if path, err = exec.LookPath("promtool"); err != nil {
			t.Skipf("promtool is not installed (package prometheus), and %s is not set", promtoolEnv)
		}
	}
	if out, err := exec.Command(path, args...).CombinedOutput(); err != nil {
		t.Errorf("promtool %s: %v\n%s", strings.Join(args, " "), err, out)
	}
}

// TestRules: promtool accepts the alert rules, and they fire when they should.
func TestRules(t *testing.T) {
	promtool(t, "check", "rules", "--lint=all", "--lint-fatal", rulesFile)
	promtool(t, "test", "rules", rulesTestFile)
}

// TestExpressions: promtool accepts every expression of the dashboard.
func TestExpressions(t *testing.T) {
	var rules strings.Builder
	rules.WriteString("groups:\n- name: dashboard\n  rules:\n")
	for _, s := range sections {
		for _, p := range s.panels {
			for _, q := range p.targets {
				expr := strings.NewReplacer("$__rate_interval", "5m", "$instance", ".*").Replace(q.expr)
				rules.WriteString("  - record: a:b\n    expr: '" + expr + "'\n    labels: {panel: '" + p.title + " " + q.legend + "'}\n")
			}
		}
	}
	file := t.TempDir() + "/dashboard.yml"
	if err := os.WriteFile(file, []byte(rules.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	promtool(t, "check", "rules", "--lint=none", file)
}
