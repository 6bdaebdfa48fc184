// SPDX-License-Identifier: Apache-2.0

package config

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"sotto/forwarder/rules"
	"sotto/forwarder/wire"
	"sotto/internal/kubernetes/cluster"
	"sotto/internal/kubernetes/kubelet"
	"sotto/internal/kubernetes/pods"
)

// onNode returns options for a node whose kubelet has the usual configuration.
func onNode(service string) Options {
	return Options{Kubernetes: Kubernetes{Service: service, Kubelet: func(string) (kubelet.Found, error) {
		return kubelet.Found{Source: kubelet.DefaultFile, Config: kubelet.Config{
			ClusterDomain: "cluster.local", ClusterDNS: []netip.Addr{netip.MustParseAddr("10.96.0.10")}, CgroupRoot: "/kubelet",
		}}, nil
	}}}
}

// chosen returns the action of the rule that matches a query, and the name of a built-in rule.
func chosen(t *testing.T, p Plan, name, nameserver string, pod *rules.Pod) string {
	t.Helper()
	q := rules.Query{Type: wire.TypeA, RD: true, Pod: pod, Workload: "/x", Nameserver: netip.AddrPortFrom(netip.MustParseAddr(nameserver), 53)}
	var err error
	if q.Name, err = wire.AppendParsed(nil, name); err != nil {
		t.Fatal(err)
	}
	i := p.Rules.Set.Match(q)
	if i < 0 {
		return fmt.Sprint(i)
	}
	return strings.TrimSuffix(p.Rules.Uses[i]+" "+p.Rules.Builtin(i+1), " ")
}

func TestBuiltinRules(t *testing.T) {
	const web = "web.one.svc.cluster.local."
	for _, c := range []struct{ text, name, nameserver, want string }{
		{"", web, "10.96.0.10", "plain cluster names"},
		{"", web, "10.99.1.1", "plain cluster names"},
		{"", web, "8.8.8.8", "nxdomain cluster names asked elsewhere"},
		{"", "1.2.3.10.in-addr.arpa.", "10.96.0.10", "plain cluster names"},
		{"", "www.example.", "10.96.0.10", "-1"},
		{"[kubernetes]\nelsewhere = 'forward'", web, "8.8.8.8", "-1"},
		{"[kubernetes]\nservice-cidr = ['10.96.0.0/24']", web, "10.99.1.1", "nxdomain cluster names asked elsewhere"},
		{"[kubernetes]\ncluster-dns = ['169.254.20.10']\ncluster-domain = ['a.local', 'b.local']", "x.b.local.", "169.254.20.10", "plain cluster names"},
		{"[kubernetes]\ncluster-dns = ['169.254.20.10']", web, "10.96.0.10", "nxdomain cluster names asked elsewhere"},
		{"[kubernetes]\ncluster = 'off'", web, "10.96.0.10", "-1"},
		// Rules of the configuration come first.
		{"[[rule]]\nname = '.'\nuse = 'refuse'", web, "10.96.0.10", "refuse"},
		{"[[rule]]\nname = 'x.example'\nuse = 'refuse'", web, "10.96.0.10", "plain cluster names"},
	} {
		_, p, err := planText(c.text, onNode(""))
		if err != nil {
			t.Errorf("%s: %v", c.text, err)
			continue
		}
		if got := chosen(t, p, c.name, c.nameserver, nil); got != c.want {
			t.Errorf("%s: %s asked of %s: %q, want %q", c.text, c.name, c.nameserver, got, c.want)
		}
		if again, err := p.WithLists(); err != nil || chosen(t, again, c.name, c.nameserver, nil) != c.want {
			t.Errorf("%s: other rules with new lists: %v", c.text, err)
		}
	}
	_, p, err := planText("", onNode(""))
	if err != nil || p.Kubernetes.Pods.CgroupRoot != "/kubelet" || p.Kubernetes.Source != kubelet.DefaultFile || p.Kubernetes.Pods.Enabled {
		t.Errorf("%+v, %v", p.Kubernetes, err)
	}
	if _, p, err = planText("[kubernetes]\ncluster-dns = ['169.254.20.10']", onNode("10.43.0.1")); err != nil || fmt.Sprint(p.Kubernetes.Cluster.Around) != "[10.43.0.0/16]" {
		t.Errorf("%+v, %v", p.Kubernetes.Cluster, err)
	}
	if _, p, err = planText("", Options{}); err != nil || p.Kubernetes.Cluster.Known() || p.Rules.Set.Len() != 0 {
		t.Errorf("rules without a cluster: %+v, %v", p.Kubernetes, err)
	}
}

// TestPodRules: conditions on pods, and the annotation.
func TestPodRules(t *testing.T) {
	off := &rules.Pod{Name: "one/a", LabelsKnown: true, OptedOut: true}
	on := &rules.Pod{Name: "one/a", LabelsKnown: true, Labels: map[string]string{"app": "web"}}
	for _, c := range []struct {
		text string
		pod  *rules.Pod
		want string
	}{
		{"", off, "-1"}, // an annotation alone opens nothing
		{"[kubernetes]\nopt-out = 'pods'", off, "plain pods that opted out"},
		{"[kubernetes]\nopt-out = 'namespaces'", off, "plain pods that opted out"},
		{"[kubernetes]\nopt-out = 'pods'", on, "-1"},
		{"[kubernetes]\nopt-out = 'pods'", &rules.Pod{Name: "one/a"}, "-1"},
		{"[kubernetes]\nopt-out = 'pods'\ncluster = 'off'", off, "plain pods that opted out"},
		{"[[rule]]\npod = 'one/*'\nuse = 'null'\n[kubernetes]\nopt-out = 'pods'", off, "null"},
		{"[[rule]]\npod = 'one/*'\nuse = 'null'", &rules.Pod{}, "-2"},
		{"[[rule]]\npod = 'one/*'\nuse = 'plain'", &rules.Pod{}, "-1"},
		{"[[rule]]\npod = ['two/*', 'one/a']\nuse = 'plain'", on, "plain"},
		{"[[rule]]\npod-label = 'app=web'\nuse = 'refuse'", on, "refuse"},
		{"[[rule]]\nnamespace-label = 'app=web'\nuse = 'refuse'", on, "-1"},
	} {
		_, p, err := planText(c.text, Options{})
		if err != nil {
			t.Errorf("%s: %v", c.text, err)
			continue
		}
		if got := chosen(t, p, "www.example.", "8.8.8.8", c.pod); got != c.want {
			t.Errorf("%s from %+v: %q, want %q", c.text, c.pod, got, c.want)
		}
		if p.Kubernetes.Pods.Enabled != (c.text != "") {
			t.Errorf("%s: pods are looked up: %v", c.text, p.Kubernetes.Pods.Enabled)
		}
		if labels := strings.Contains(c.text, "label") || strings.Contains(c.text, "opt-out"); labels != (p.Kubernetes.Pods.File != "") {
			t.Errorf("%s: the file of labels is %q", c.text, p.Kubernetes.Pods.File)
		}
	}
}

// TestCgroupRoot: the pods of rules are below the kubelet's cgroupRoot, whatever is known about the
// cluster.
func TestCgroupRoot(t *testing.T) {
	const rule = "[[rule]]\npod = 'one/*'\nuse = 'null'\n[kubernetes]\n"
	for text, want := range map[string]string{
		rule:                     "/kubelet",
		rule + "cluster = 'off'": "/kubelet",
		rule + "cluster = 'off'\ncgroup-root = '/x'":      "/x",
		"[kubernetes]\ncluster = 'off'\nopt-out = 'pods'": "/kubelet",
		"[kubernetes]\ncluster = 'off'":                   "",
	} {
		_, p, err := planText(text, onNode(""))
		if err != nil || p.Kubernetes.Pods.CgroupRoot != want {
			t.Errorf("%s: %q, %v: want %q", text, p.Kubernetes.Pods.CgroupRoot, err, want)
		}
		if off := strings.Contains(text, "off"); off && (p.Kubernetes.Cluster.Known() || p.Kubernetes.Source != "" || len(p.Kubernetes.warnings) > 0) {
			t.Errorf("%s: %+v: want nothing about the cluster", text, p.Kubernetes)
		}
	}
	_, p, err := planText(rule, Options{Kubernetes: Kubernetes{Kubelet: func(string) (kubelet.Found, error) {
		return kubelet.Found{Config: kubelet.Config{ClusterDomain: ".", CgroupRoot: "/kubelet"}}, nil
	}}})
	if err != nil || p.Kubernetes.Pods.CgroupRoot != "/kubelet" || len(p.Kubernetes.warnings) == 0 {
		t.Errorf("with an invalid domain: %+v, %v", p.Kubernetes, err)
	}
}

func TestInvalidKubernetes(t *testing.T) {
	for text, want := range map[string]string{
		"[[kubernetes]]":                                                        ":1:3: kubernetes is a single table: write [kubernetes]",
		"kubernetes = 1":                                                        ":1:14: wrong type of value: write it as [kubernetes]",
		"kubernetes.cluster = 'off'":                                            ":1:1: kubernetes has no keys of its own",
		"[kubernetes.x]":                                                        ":1:13: kubernetes has no tables of its own",
		"[kubernetes]\nx = 1":                                                   `:2:1: unknown setting "x"`,
		"[kubernetes]\ncluster = 1":                                             ":2:11: wrong type of value",
		"[kubernetes]\ncluster = 'yes'":                                         `:2:11: cluster: unknown value "yes"`,
		"[kubernetes]\nelsewhere = 'plain'":                                     `:2:13: elsewhere: unknown value "plain"`,
		"[kubernetes]\nopt-out = 'on'":                                          `:2:11: opt-out: unknown value "on"`,
		"[kubernetes]\npods-file = 'x'":                                         ":2:13: pods-file: \"x\" is not an absolute path",
		"[kubernetes]\ncluster-domain = ['.']":                                  ":2:19: cluster-domain: it is the root",
		"[kubernetes]\ncluster-domain = ['a..b']":                               "it has an empty label",
		"[kubernetes]\ncluster-dns = ['dns']":                                   `cluster-dns: "dns" is not an address`,
		"[kubernetes]\nservice-cidr = ['10.96.0.1/12']":                         `service-cidr: "10.96.0.1/12" is not a network`,
		"[kubernetes]\npod-cidr = ['10.0.0.1']":                                 `pod-cidr: "10.0.0.1" is not a network`,
		"[kubernetes]\ncluster = 'on'":                                          "the kubelet's configuration was not found",
		"[[rule]]\npod = 'web'\nuse = 'null'":                                   `:2:7: pod: "web": a pod is written as NAMESPACE/NAME`,
		"[[rule]]\npod-label = 'a in (b)'\nuse = 'null'":                        `:2:13: pod-label: "a in (b)"`,
		"[[rule]]\nnamespace-label = []\nuse = 'null'":                          ":2:1: namespace-label: it is empty",
		"[kubernetes]\npods-file = ''\n[[rule]]\npod-label = 'a'\nuse = 'null'": ":4:13: pod-label: labels are not known without pods-file",
	} {
		if _, _, err := planText(text, Options{}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %s", text, err, want)
		}
	}
	if _, _, err := planText("[[rule]]\npod = 'a/b'\nuse = 'null'", Options{Serve: true}); err == nil || !strings.Contains(err.Error(), "'sotto serve' does not know the pod") {
		t.Error(err)
	}
}

// TestWithKubelet: a kubelet that does not run yet is a warning on a node, and what it knows later
// changes nothing else.
func TestWithKubelet(t *testing.T) {
	const web, text = "web.one.svc.cluster.local.", "[[rule]]\nnames-file = 'blocked'\nuse = 'refuse'\n"
	found, failure := kubelet.Found{Pending: true}, error(nil)
	f := files{"blocked": "ads.example"}
	o := Options{Read: f.read, Kubernetes: Kubernetes{Kubelet: func(string) (kubelet.Found, error) { return found, failure }}}
	_, p, err := planText(text, o)
	if err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	if p.Warn(slog.New(slog.NewTextHandler(&log, nil))); !strings.Contains(log.String(), "no running kubelet") || !strings.Contains(log.String(), "kubelet-config") {
		t.Errorf("%s: want a warning", &log)
	}
	f["blocked"] = "other.example"
	failure = errors.New("broken")
	if _, changed, err := p.WithKubelet(); changed || !errors.Is(err, failure) {
		t.Errorf("with an error: %v, %v", changed, err)
	}
	failure = nil
	if again, changed, err := p.WithKubelet(); changed || err != nil || !again.Kubernetes.Pending {
		t.Errorf("without a kubelet: %+v, %v, %v", again.Kubernetes, changed, err)
	}
	found, _ = onNode("").Kubernetes.Kubelet("")
	now, changed, err := p.WithKubelet()
	if err != nil || !changed || now.Kubernetes.Pending || now.Kubernetes.Source != kubelet.DefaultFile {
		t.Errorf("with a kubelet: %+v, %v, %v", now.Kubernetes, changed, err)
	}
	for name, want := range map[string]string{web: "plain cluster names", "ads.example.": "refuse", "other.example.": "-1"} {
		if got := chosen(t, now, name, "10.96.0.10", nil); got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
	if _, changed, err := now.WithKubelet(); changed || err != nil {
		t.Errorf("again: %v, %v", changed, err)
	}
	if len(p.Rules.sources.files) != 1 || now.Rules.sources.files != nil {
		t.Errorf("kept files: %v, then %v", p.Rules.sources.files, now.Rules.sources.files)
	}
}

// TestFilesBeforeKubelet: what is known of the kubelet later does not put a file in force that was edited
// since, also if only cgroupRoot is needed.
func TestFilesBeforeKubelet(t *testing.T) {
	const text = "[kubernetes]\ncluster = 'off'\nopt-out = 'pods'\n[[rule]]\nnames-file = 'blocked'\nuse = 'refuse'\n"
	for _, root := range []string{"", "/pods"} {
		found := kubelet.Found{Pending: true}
		f := files{"blocked": "ads.example"}
		_, p, err := planText(text, Options{Read: f.read, Kubernetes: Kubernetes{Kubelet: func(string) (kubelet.Found, error) { return found, nil }}})
		if err != nil {
			t.Fatal(err)
		}
		f["blocked"] = "other.example"
		found = kubelet.Found{Config: kubelet.Config{CgroupRoot: root}}
		now, changed, err := p.WithKubelet()
		if err != nil || changed != (root != "") || now.Kubernetes.Pending || now.Kubernetes.Pods.CgroupRoot != root {
			t.Errorf("cgroupRoot %q: %+v, %v, %v", root, now.Kubernetes, changed, err)
		}
		for name, want := range map[string]string{"ads.example.": "refuse", "other.example.": "-1"} {
			if got := chosen(t, now, name, "10.96.0.10", nil); got != want {
				t.Errorf("cgroupRoot %q: %s: %q, want %q", root, name, got, want)
			}
		}
	}
}

// TestPendingKubelet: the kubelet is not looked for again if the settings have what it knows.
func TestPendingKubelet(t *testing.T) {
	const known = "[kubernetes]\ncluster-domain = ['a.local']\ncluster-dns = ['10.96.0.10']\n"
	for text, want := range map[string]bool{
		"":                              true,
		"[kubernetes]\ncluster = 'off'": false,
		known:                           false,
		known + "opt-out = 'pods'":      true,
		known + "opt-out = 'pods'\ncgroup-root = '/x'":       false,
		"[kubernetes]\ncluster = 'off'\nopt-out = 'pods'":    true,
		"[kubernetes]\ncluster-dns = ['169.254.20.10']":      true,
		"[kubernetes]\nkubelet-config = '/etc/kubelet.yaml'": true,
	} {
		_, p, err := planText(text, Options{Kubernetes: Kubernetes{Kubelet: func(string) (kubelet.Found, error) {
			return kubelet.Found{Pending: true}, nil
		}}})
		if err != nil || p.Kubernetes.Pending != want {
			t.Errorf("%s: pending %v, %v: want %v", text, p.Kubernetes.Pending, err, want)
		}
	}
}

// TestBrokenKubelet: a configuration that cannot be read is a warning, unless the settings need it.
func TestBrokenKubelet(t *testing.T) {
	broken := Options{Kubernetes: Kubernetes{Kubelet: func(string) (kubelet.Found, error) {
		return kubelet.Found{}, errors.New("read the kubelet's configuration: x.yaml: broken")
	}}}
	for text, want := range map[string]string{
		"":                              "WARN the cluster of this node is not known: read the kubelet's configuration: x.yaml: broken",
		"[kubernetes]\ncluster = 'on'":  "x.yaml: broken",
		"[kubernetes]\ncluster = 'off'": "",
		"[kubernetes]\ncluster = 'off'\nopt-out = 'pods'": "WARN the kubelet's cgroupRoot is not known: read the kubelet's configuration: x.yaml: broken; set cgroup-root",
		"[kubernetes]\nkubelet-config = '/x.yaml'":        "x.yaml: broken",
	} {
		_, p, err := planText(text, broken)
		got := fmt.Sprint(err)
		if err == nil {
			var log bytes.Buffer
			p.Warn(slog.New(slog.NewTextHandler(&log, nil)))
			got = strings.ReplaceAll(log.String(), `level=WARN msg="configuration: `, "WARN ")
		}
		if !strings.Contains(got, want) || want == "" && got != "" {
			t.Errorf("%s: %s, want %s", text, got, want)
		}
	}
	if !slices.Equal([]string{string(cluster.Auto), string(pods.OptOutOff)}, []string{Default().Kubernetes.Elsewhere, Default().Kubernetes.OptOut}) {
		t.Error("the defaults have changed")
	}
}
