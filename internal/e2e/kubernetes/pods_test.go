// SPDX-License-Identifier: Apache-2.0

package kubernetes

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"sotto/internal/e2e"
	"sotto/internal/kubernetes/podfile"
	"sotto/internal/netlab"
)

const (
	clusterDNS = "1.1.1.1" // the plain nameserver that stands for the cluster's resolver

	uidA = "0f9b7e5c-5e0e-4b0e-9a55-0a8e7d1c2b3a"
	uidB = "11111111-5e0e-4b0e-9a55-0a8e7d1c2b3a"
)

// node is a cgroup with the pods of a node, and the files that describe them.
type node struct {
	world
	cgroup *netlab.Cgroup
	a, b   *netlab.Cgroup // containers of pods
	file   string         // of sotto-kubernetes
	config string
}

func newNode(t *testing.T) *node {
	w := newWorld(t)
	dir := t.TempDir()
	n := &node{world: w, cgroup: w.Cgroup("node"), file: filepath.Join(dir, "pods.json"), config: filepath.Join(dir, "sotto.toml")}
	below := func(parent *netlab.Cgroup, name string) *netlab.Cgroup {
		t.Helper()
		g, err := w.Lab.Below(parent, name)
		if err != nil {
			t.Fatal(err)
		}
		return g
	}
	kubepods := below(below(n.cgroup, "kubepods"), "besteffort")
	n.a = below(below(kubepods, "pod"+uidA), strings.Repeat("a", 64))
	n.b = below(below(kubepods, "pod"+uidB), strings.Repeat("b", 64))
	e2e.WriteFile(t, dir+"/kubelet.yaml", "kind: KubeletConfiguration\nclusterDomain: cluster.local\nclusterDNS: ["+clusterDNS+"]\n")
	n.configure(dir+"/kubelet.yaml", "")
	return n
}

// configure writes the configuration. rules are further lines.
func (n *node) configure(kubelet, rules string) {
	n.T.Helper()
	root, err := netlab.CgroupRoot()
	if err != nil {
		n.T.Fatal(err)
	}
	path, err := filepath.Rel(root, n.cgroup.Path)
	if err != nil {
		n.T.Fatal(err)
	}
	e2e.WriteFile(n.T, n.config, fmt.Sprintf("[kubernetes]\nkubelet-config = %q\npods-file = %q\ncgroup-root = %q\n%s", kubelet, n.file, path, rules))
}

func (n *node) kubelet() string { return filepath.Join(filepath.Dir(n.config), "kubelet.yaml") }

// pods writes the file of sotto-kubernetes.
func (n *node) pods(a, b podfile.Pod, namespace podfile.Namespace) {
	n.T.Helper()
	a.UID, a.Namespace, a.Name = uidA, "one", "a"
	b.UID, b.Namespace, b.Name = uidB, "two", "b"
	err := podfile.Write(n.file, podfile.File{Namespaces: map[string]podfile.Namespace{"one": {}, "two": namespace}, Pods: []podfile.Pod{a, b}})
	if err != nil {
		n.T.Fatal(err)
	}
}

// check asks over UDP and TCP.
func (n *node) check(what string, g *netlab.Cgroup, server, name, want string) {
	n.T.Helper()
	for _, proto := range []string{"+notcp", "+tcp"} {
		if out := n.Dig(n.Host, g, proto, "@"+server, name); !strings.Contains(out, want) {
			n.T.Errorf("%s: %s at %s: no %s in\n%s", what, name, server, want, out)
		}
	}
}

// until waits until a change has taken effect.
func (n *node) until(what string, g *netlab.Cgroup, server, name, want string) {
	n.T.Helper()
	n.Until(what, func() bool { return strings.Contains(n.Dig(n.Host, g, "@"+server, name), want) })
}

// TestClusterNames: a name of the cluster goes in plain DNS to the cluster's resolver and nowhere
// else, and other names always go over TLS.
func TestClusterNames(t *testing.T) {
	n := newNode(t)
	p := n.Start("msg=sealed", append(n.RunArgs(n.cgroup), "--config", n.config)...)
	if !strings.Contains(p.Log(), "domains=[cluster.local]") {
		t.Errorf("the log does not name the cluster:\n%s", p.Log())
	}
	_, plain := n.CapturePlain()
	n.check("the cluster's resolver", n.a, clusterDNS, "web.one.svc.cluster.local", e2e.Plain4)
	n.check("the cluster's resolver", n.a, clusterDNS, "1.2.3.10.in-addr.arpa", e2e.Plain4)
	n.check("the cluster's resolver", n.a, clusterDNS, "www.example", e2e.Sealed4)
	n.check("another nameserver", n.a, "8.8.8.8", "secret.cluster.local", "status: NXDOMAIN")
	n.check("another nameserver", n.a, "8.8.8.8", "www.example", e2e.Sealed4)
	packets := plain()
	if len(packets) == 0 {
		t.Error("no plain packet was captured: does the capture work?")
	}
	for _, packet := range packets {
		addr, name := packet.Dst.Addr(), packet.Question
		if packet.Src.Port() == 53 {
			addr = packet.Src.Addr()
		}
		if addr.String() != clusterDNS || name != "" && !strings.HasPrefix(name, "web.one.svc.cluster.local.") && !strings.HasPrefix(name, "1.2.3.10.in-addr.arpa.") {
			t.Errorf("a plain packet of another query: %v %s", packet, name)
		}
	}
	for _, q := range n.Upstream.Log() {
		if strings.Contains(q.Name, "cluster.local") {
			t.Errorf("the upstream was asked for %s", q.Name)
		}
	}
	for server, want := range map[string]string{clusterDNS: "built in: cluster names)", "8.8.8.8": "built in: cluster names asked elsewhere)"} {
		if out, stderr, _ := n.Sotto("explain", "x.cluster.local", "--nameserver", server); !strings.Contains(out, want) {
			t.Errorf("explain: no %s in %s%s", want, out, stderr)
		}
	}

	// A reload reads the kubelet's configuration again.
	e2e.WriteFile(t, n.kubelet(), "clusterDomain: other.local\nclusterDNS: [9.9.9.9]\n")
	if stdout, stderr, status := n.Sotto("reload"); status != 0 {
		t.Fatalf("reload: status %d, %q, %q", status, stdout, stderr)
	}
	n.check("after a change", n.a, "9.9.9.9", "web.other.local", e2e.Plain4)
	n.check("after a change", n.a, clusterDNS, "web.other.local", "status: NXDOMAIN")
	e2e.WriteFile(t, n.kubelet(), "clusterDNS: [x]\n")
	if _, stderr, status := n.Sotto("reload"); status != e2e.ExitFailure || !strings.Contains(stderr, `clusterDNS: "x" is not an address`) {
		t.Errorf("reload with an error: status %d, %q", status, stderr)
	}
	n.check("after an error", n.a, "9.9.9.9", "web.other.local", e2e.Plain4)
	n.Stop(p)
	n.NothingLeft()
}

// TestPodRules: rules for pods, their labels and annotations apply to these pods only, change
// while queries are answered, survive a takeover, and never open the seal for a pod that is not
// known.
func TestPodRules(t *testing.T) {
	n := newNode(t)
	n.configure(n.kubelet(), `opt-out = "pods"
[[rule]]
pod = "one/*"
name = "name.example"
use = "refuse"
[[rule]]
pod-label = "app=web"
name = "label.example"
use = "null"
[[rule]]
pod-label = "app=web"
name = "plain.example"
use = "plain"
`)
	args := append(n.RunArgs(n.cgroup), "--config", n.config)
	outside := n.Cgroup("outside")
	p := n.Start("msg=sealed", append(args, "--cgroup", outside.Path)...)
	args = append(args, "--cgroup", outside.Path)

	// Without the file nothing is known: no query leaves in plain, and other rules fail.
	watch := n.Watch()
	n.check("not known", n.a, "8.8.8.8", "name.example", "status: SERVFAIL")
	n.check("not known", n.a, "8.8.8.8", "label.example", "status: SERVFAIL")
	n.check("not known", n.a, "8.8.8.8", "plain.example", e2e.Sealed4)
	n.check("not known", n.a, "8.8.8.8", "www.example", e2e.Sealed4)
	n.check("not a pod", outside, "8.8.8.8", "name.example", e2e.Sealed4)
	n.check("not a pod", outside, "8.8.8.8", "label.example", e2e.Sealed4)
	load := n.StartLoad(n.b, 100)

	n.pods(podfile.Pod{}, podfile.Pod{}, podfile.Namespace{})
	n.until("the file", n.a, "8.8.8.8", "label.example", e2e.Sealed4)
	n.check("known", n.a, "8.8.8.8", "name.example", "status: REFUSED")
	n.check("known", n.b, "8.8.8.8", "name.example", e2e.Sealed4)
	n.pods(podfile.Pod{}, podfile.Pod{Labels: map[string]string{"app": "web"}}, podfile.Namespace{})
	n.until("the label", n.b, "8.8.8.8", "label.example", "0.0.0.0")
	n.check("the label", n.a, "8.8.8.8", "label.example", e2e.Sealed4)
	n.StopWatching(watch)
	n.check("the label", n.b, "8.8.8.8", "plain.example", e2e.Plain4)
	n.check("the label", n.a, "8.8.8.8", "plain.example", e2e.Sealed4)

	n.pods(podfile.Pod{Seal: podfile.SealOff}, podfile.Pod{}, podfile.Namespace{})
	n.until("the annotation", n.a, "8.8.8.8", "out.example", e2e.Plain4)
	n.check("another pod", n.b, "8.8.8.8", "out.example", e2e.Sealed4)
	n.check("a rule of the configuration", n.a, "8.8.8.8", "name.example", "status: REFUSED")
	p = n.Replace(p, args...)
	n.check("after a takeover", n.a, "8.8.8.8", "out.example", e2e.Plain4)
	n.check("after a takeover", n.b, "8.8.8.8", "out.example", e2e.Sealed4)
	n.pods(podfile.Pod{}, podfile.Pod{}, podfile.Namespace{})
	n.until("the annotation's removal", n.a, "8.8.8.8", "out.example", e2e.Sealed4)
	if r := load.Stop(); r.UDP == 0 || r.Lost+r.Reset+r.Failed+r.Wrong > 0 {
		t.Errorf("queries were lost: %+v", r)
	}
	n.Stop(p)
	n.NothingLeft()
}
