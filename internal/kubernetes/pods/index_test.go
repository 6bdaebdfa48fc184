// SPDX-License-Identifier: Apache-2.0

package pods

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"sotto/forwarder/rules"
	"sotto/internal/kubernetes/podfile"
)

const (
	uidA = "0f9b7e5c-5e0e-4b0e-9a55-0a8e7d1c2b3a"
	uidB = "11111111-5e0e-4b0e-9a55-0a8e7d1c2b3a"
	uidC = "22222222-5e0e-4b0e-9a55-0a8e7d1c2b3a"
	file = "/run/pods.json"
)

var container = strings.Repeat("ab", 32)

// cgroupOf returns the path of a container's cgroup with the driver cgroupfs.
func cgroupOf(uid string) string { return "/kubepods/besteffort/pod" + uid + "/" + container }

// testIndex is a running index with a root directory of its own.
type testIndex struct {
	*Index
	t    *testing.T
	root string
	log  *lockedBuffer
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func newIndex(t *testing.T) *testIndex {
	x := &testIndex{t: t, root: t.TempDir(), log: &lockedBuffer{}}
	x.Index = New(x.root, slog.New(slog.NewTextHandler(x.log, nil)))
	if err := os.MkdirAll(filepath.Join(x.root, "run"), 0o755); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() { _ = x.Run(ctx) })
	t.Cleanup(func() { cancel(); wg.Wait() })
	return x
}

func (x *testIndex) logDir(name string) {
	x.t.Helper()
	if err := os.MkdirAll(filepath.Join(x.root, "var/log/pods", name), 0o755); err != nil {
		x.t.Fatal(err)
	}
}

func (x *testIndex) write(f podfile.File) {
	x.t.Helper()
	if err := podfile.Write(filepath.Join(x.root, file), f); err != nil {
		x.t.Fatal(err)
	}
}

// want waits until the pod of a path is the one that want describes.
func (x *testIndex) want(path, want string) {
	x.t.Helper()
	got := ""
	for end := time.Now().Add(30 * time.Second); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		if got = describe(x.Pod(path)); got == want {
			return
		}
	}
	x.t.Fatalf("%s: %s, want %s", path, got, want)
}

func describe(p *rules.Pod) string {
	switch {
	case p == nil:
		return "none"
	case p.LabelsKnown:
		return fmt.Sprintf("%s%v%v%v", p.Name, p.Labels, p.NamespaceLabels, p.OptedOut)
	case p.Name == "":
		return "unknown"
	}
	return p.Name + " without labels"
}

func TestIndex(t *testing.T) {
	x := newIndex(t)
	x.want(cgroupOf(uidA), "none") // not enabled
	x.logDir("shop_web-0_" + uidA)
	x.Configure(Settings{Enabled: true, File: file, OptOut: OptOutPods})
	if got := describe(x.Pod(cgroupOf(uidA))); got != "shop/web-0 without labels" {
		t.Errorf("%s right after Configure", got)
	}
	x.want("/system.slice/sshd.service", "none")
	x.want("", "none")
	x.want("/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod"+strings.ReplaceAll(uidA, "-", "_")+".slice/cri-containerd-"+container+".scope", "shop/web-0 without labels")
	x.want("/kh"+cgroupOf(uidA), "none") // not below the configured root
	x.want(cgroupOf(uidB), "unknown")
	x.logDir("shop_db-0_" + uidB)
	x.want(cgroupOf(uidB), "shop/db-0 without labels")

	f := podfile.File{
		Namespaces: map[string]podfile.Namespace{"shop": {Labels: map[string]string{"team": "s"}}},
		Pods: []podfile.Pod{{UID: uidA, Namespace: "shop", Name: "web-0", Labels: map[string]string{"app": "web"}},
			{UID: uidB, Namespace: "other", Name: "x"}, {UID: uidC, Namespace: "other", Name: "y"}},
	}
	x.write(f)
	x.want(cgroupOf(uidA), "shop/web-0map[app:web]map[team:s]false")
	x.want(cgroupOf(uidB), "shop/db-0 without labels") // the kubelet has another pod there
	x.want(cgroupOf(uidC), "other/y without labels")   // its namespace is not known
	f.Pods[0].Labels, f.Pods[0].Seal = map[string]string{"app": "db"}, podfile.SealOff
	x.write(f)
	x.want(cgroupOf(uidA), "shop/web-0map[app:db]map[team:s]true")
	f.Pods = f.Pods[:1]
	x.write(f)
	x.want(cgroupOf(uidC), "unknown")

	// A file that cannot be used means that nothing is known.
	if err := os.Chmod(filepath.Join(x.root, file), 0o666); err != nil {
		t.Fatal(err)
	}
	x.Configure(Settings{Enabled: true, File: file, OptOut: OptOutPods})
	x.want(cgroupOf(uidA), "shop/web-0 without labels")
	if !strings.Contains(x.log.String(), "other users can write to it") {
		t.Errorf("the log has no warning: %s", x.log)
	}
	if err := os.Remove(filepath.Join(x.root, "var/log/pods/shop_web-0_"+uidA)); err != nil {
		t.Fatal(err)
	}
	x.want(cgroupOf(uidA), "unknown")

	x.Configure(Settings{Enabled: true, CgroupRoot: "/kh"})
	x.want("/kh"+cgroupOf(uidB), "shop/db-0 without labels")
	x.Configure(Settings{Enabled: true, CgroupRoot: "/Node-pods"}) // with the systemd driver
	x.want("/Node_pods.slice/Node_pods-kubepods.slice/Node_pods-kubepods-pod"+strings.ReplaceAll(uidB, "-", "_")+".slice/crio-"+container+".scope", "shop/db-0 without labels")
	x.Configure(Settings{})
	x.want(cgroupOf(uidB), "none")
}

func TestOptOut(t *testing.T) {
	for _, c := range []struct {
		mode           OptOut
		pod, namespace string
		want           bool
	}{
		{OptOutPods, "off", "", true},
		{OptOutPods, "off", "on", true},
		{OptOutPods, "", "off", true},
		{OptOutPods, "on", "off", false},
		{OptOutPods, "OFF", "off", false}, // a typing error seals
		{OptOutPods, "", "", false},
		{OptOutNamespaces, "off", "", false},
		{OptOutNamespaces, "off", "off", true},
		{OptOutNamespaces, "", "off", true},
		{OptOutNamespaces, "on", "off", false},
		{OptOutOff, "off", "off", false},
		{"", "off", "off", false},
	} {
		if got := c.mode.exempts(c.pod, c.namespace); got != c.want {
			t.Errorf("%+v: %v", c, got)
		}
	}
}

// TestStaleFile: a file that is not written any more is a warning, and stays valid.
func TestStaleFile(t *testing.T) {
	x := &testIndex{t: t, root: t.TempDir(), log: &lockedBuffer{}}
	x.Index = New(x.root, slog.New(slog.NewTextHandler(x.log, nil)))
	if err := os.MkdirAll(filepath.Join(x.root, "run"), 0o755); err != nil {
		t.Fatal(err)
	}
	x.write(podfile.File{Namespaces: map[string]podfile.Namespace{"a": {}}, Pods: []podfile.Pod{{UID: uidA, Namespace: "a", Name: "b"}}})
	x.Configure(Settings{Enabled: true, File: file})
	for _, after := range []time.Duration{0, staleAfter + time.Minute, staleAfter + 2*time.Minute} {
		x.tick(time.Now().Add(after))
		if got := describe(x.Pod(cgroupOf(uidA))); got != "a/bmap[]map[]false" {
			t.Errorf("%s after %s", got, after)
		}
	}
	if n := strings.Count(x.log.String(), "check sotto-kubernetes"); n != 1 {
		t.Errorf("%d warnings: %s", n, x.log)
	}
}

// TestManyPaths: the paths that are kept are limited.
func TestManyPaths(t *testing.T) {
	x := New(t.TempDir(), nil)
	x.Configure(Settings{Enabled: true})
	for i := range 2*maxPaths + 10 {
		x.Pod(fmt.Sprintf("/system.slice/x%d.service", i))
	}
	n := 0
	x.state.Load().paths.uids.Range(func(any, any) bool { n++; return true })
	if n == 0 || n > maxPaths {
		t.Errorf("%d paths", n)
	}
}

func BenchmarkPod(b *testing.B) {
	x := New(b.TempDir(), nil)
	x.Configure(Settings{Enabled: true})
	path := cgroupOf(uidA)
	b.ReportAllocs()
	for b.Loop() {
		x.Pod(path)
	}
}
