// SPDX-License-Identifier: Apache-2.0

package kubelet

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const kubeadm = `apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
authentication:
  anonymous: {enabled: false}
cgroupDriver: systemd
clusterDNS:
- 10.96.0.10
- fd00:10:96::a
clusterDomain: cluster.local
evictionPressureTransitionPeriod: 0s
`

func TestParse(t *testing.T) {
	for _, c := range []struct {
		name, text, flags, want string
	}{
		{"kubeadm", kubeadm, "kubelet --config=/x", "cluster.local [10.96.0.10 fd00:10:96::a] "},
		{"JSON", `{"kind":"KubeletConfiguration","clusterDNS":["172.20.0.10"],"clusterDomain":"k8s.example","cgroupRoot":"/kubelet"}`, "kubelet", "k8s.example [172.20.0.10] /kubelet"},
		{"flags win", kubeadm, "/usr/bin/kubelet --cluster-dns=169.254.20.10,10.0.0.2 --cluster-domain other.example --v=2 --cgroup-root=/x", "other.example [169.254.20.10 10.0.0.2] /x"},
		{"single dash", "", "kubelet -cluster-domain=a.example", "a.example [] "},
		{"no DNS", "clusterDNS: []", "kubelet", " [] "},
		{"mapped", "clusterDNS: ['::ffff:10.0.0.1']", "kubelet", " [10.0.0.1] "},
		{"empty", "", "", " [] "},
	} {
		var got Config
		if err := got.Parse([]byte(c.text)); err != nil {
			t.Errorf("%s: %v", c.name, err)
		}
		if err := got.ParseFlags(strings.Fields(c.flags)); err != nil {
			t.Errorf("%s: %v", c.name, err)
		}
		if text := fmt.Sprintf("%s %v %s", got.ClusterDomain, got.ClusterDNS, got.CgroupRoot); text != c.want {
			t.Errorf("%s: %q, want %q", c.name, text, c.want)
		}
	}
	for text, want := range map[string]string{
		"kind: Pod":               `its kind is "Pod"`,
		"clusterDNS: [dns]":       `clusterDNS: "dns" is not an address`,
		"clusterDNS: 10.96.0.10":  "cannot unmarshal",
		"clusterDomain: [a]":      "cannot unmarshal",
		"\tclusterDomain: x":      "cannot start any token",
		"clusterDNS: [10.0.0.53]": "",
	} {
		var got Config
		if err := got.Parse([]byte(text)); (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %s", text, err, want)
		}
	}
	if err := new(Config).ParseFlags([]string{"kubelet", "--cluster-dns=x"}); err == nil {
		t.Error("--cluster-dns=x is accepted")
	}
}

// node is the file system of a node.
type node struct {
	t    *testing.T
	root string
}

func newNode(t *testing.T) node { return node{t, t.TempDir()} }

func (n node) write(path, text string) {
	n.t.Helper()
	path = filepath.Join(n.root, path)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		n.t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		n.t.Fatal(err)
	}
}

// process adds a process whose root directory is root.
func (n node) process(pid, uid int, cgroup, root string, args ...string) {
	dir := fmt.Sprintf("proc/%d", pid)
	n.write(dir+"/cmdline", strings.Join(args, "\x00")+"\x00")
	n.write(dir+"/status", fmt.Sprintf("Name:\tx\nUid:\t%d\t%d\t%d\t%d\n", uid, uid, uid, uid))
	n.write(dir+"/cgroup", "4:cpu:/\n0::"+cgroup+"\n")
	for _, link := range []string{"root", "cwd"} {
		if err := os.Symlink(filepath.Join(n.root, root), filepath.Join(n.root, dir, link)); err != nil {
			n.t.Fatal(err)
		}
	}
}

func (n node) find(o Options, domain, source string) {
	n.t.Helper()
	o.Root = n.root
	f, err := Find(o)
	if err != nil || f.ClusterDomain != domain || f.Source != source {
		n.t.Errorf("domain %q from %q, %v: want %q from %q", f.ClusterDomain, f.Source, err, domain, source)
	}
}

const unit = "/system.slice/kubelet.service"

// TestFinder: a file that can be read no longer, because privileges were dropped, stays in force.
func TestFinder(t *testing.T) {
	if os.Geteuid() == 0 {
		t.Skip("root may read every file")
	}
	n := newNode(t)
	n.write("var/lib/kubelet/x", "")
	n.write("other/etc/k.yaml", "clusterDomain: a.example")
	n.process(7, 0, unit, "other", "kubelet", "--config=/etc/k.yaml")
	f := Finder{Options: Options{Root: n.root}}
	for _, mode := range []os.FileMode{0o700, 0, 0o700} {
		if err := os.Chmod(filepath.Join(n.root, "other"), mode); err != nil {
			t.Fatal(err)
		}
		if got, err := f.Find(""); err != nil || got.ClusterDomain != "a.example" {
			t.Errorf("%+v, %v with mode %o", got, err, mode)
		}
		if got, err := new(Finder{Options: f.Options}).Find(""); (err == nil) != (mode != 0) {
			t.Errorf("%+v, %v at the start with mode %o", got, err, mode)
		}
	}
	n.write("other/etc/k.yaml", "clusterDomain: b.example")
	if got, err := f.Find(""); err != nil || got.ClusterDomain != "b.example" {
		t.Errorf("%+v, %v after a change", got, err)
	}
}

// TestFinderWithoutProcess: what was found stays while the kubelet does not run, and what is found
// afterwards counts again.
func TestFinderWithoutProcess(t *testing.T) {
	n := newNode(t)
	n.write(DefaultFile, "clusterDomain: default.example")
	n.write("etc/k.yaml", "clusterDomain: a.example")
	f := Finder{Options: Options{Root: n.root}}
	check := func(when, file, want string) {
		t.Helper()
		got, err := f.Find(file)
		if text := fmt.Sprintf("%s %v pending %t", got.ClusterDomain, got.ClusterDNS, got.Pending); err != nil || text != want {
			t.Errorf("%s: %s, %v: want %s", when, text, err, want)
		}
	}
	restart := func(pid int, args ...string) {
		if err := os.RemoveAll(filepath.Join(n.root, "proc")); err != nil {
			t.Fatal(err)
		}
		if n.write("proc/uptime", ""); pid != 0 {
			n.process(pid, 0, unit, ".", args...)
		}
	}
	check("before its start", "", "default.example [] pending true")
	restart(7, "kubelet", "--config=/etc/k.yaml", "--cluster-dns=10.0.0.2")
	check("while it runs", "", "a.example [10.0.0.2] pending false")
	restart(0)
	check("after its exit", "", "a.example [10.0.0.2] pending true")
	n.write("etc/k.yaml", "clusterDomain: b.example")
	check("named, after its exit", "/etc/k.yaml", "b.example [10.0.0.2] pending true")
	restart(8, "kubelet", "--config=/etc/none.yaml")
	check("before its file exists", "", "a.example [10.0.0.2] pending true")
	restart(9, "kubelet", "--config=/etc/k.yaml")
	check("after a restart", "", "b.example [] pending false")
	if err := os.RemoveAll(filepath.Join(n.root, stateDir)); err != nil {
		t.Fatal(err)
	}
	check("after its removal", "", " [] pending false")
}

// TestPending: on a node, the configuration of a kubelet that does not run may become another one.
func TestPending(t *testing.T) {
	for name, c := range map[string]struct {
		node bool
		o    Options
		args []string
		want bool
	}{
		"no node":                {},
		"a node":                 {node: true, want: true},
		"a pod":                  {o: Options{InPod: true}, want: true},
		"a file that is missing": {node: true, args: []string{"kubelet", "--config=/none.yaml"}, want: true},
		"flags only":             {node: true, args: []string{"kubelet", "--cluster-domain=a.example"}},
	} {
		n := newNode(t)
		if c.node {
			n.write("var/lib/kubelet/x", "")
		}
		if c.args != nil {
			n.process(7, 0, unit, ".", c.args...)
		}
		c.o.Root = n.root
		if got, err := Find(c.o); err != nil || got.Pending != c.want {
			t.Errorf("%s: %+v, %v: want pending %t", name, got, err, c.want)
		}
	}
}

func TestFind(t *testing.T) {
	t.Run("nothing", func(t *testing.T) {
		n := newNode(t)
		n.find(Options{}, "", "")
		n.process(7, 0, unit, ".", "kubelet", "--cluster-domain=x.example") // not looked at
		n.find(Options{}, "", "")
		n.find(Options{InPod: true}, "x.example", "the command line of kubelet, process 7")
	})
	t.Run("file of kubeadm", func(t *testing.T) {
		n := newNode(t)
		n.write(DefaultFile, kubeadm)
		n.find(Options{}, "cluster.local", DefaultFile)
	})
	t.Run("file of the process, in its mount namespace", func(t *testing.T) {
		n := newNode(t)
		n.write(DefaultFile, kubeadm)
		n.write("other/etc/kubelet.json", `{"clusterDomain":"a.example"}`)
		n.process(7, 0, unit, "other", "/usr/bin/kubelet", "--config", "/etc/kubelet.json")
		n.find(Options{}, "a.example", "/etc/kubelet.json")
	})
	t.Run("relative path, drop-in files and flags", func(t *testing.T) {
		n := newNode(t)
		n.write("var/lib/kubelet/x", "")
		n.write("k.yaml", "clusterDomain: a.example\ncgroupRoot: /kubelet")
		n.write("etc/k.d/10.conf", "clusterDomain: b.example")
		n.write("etc/k.d/20.conf", "clusterDNS: [10.0.0.1]")
		n.write("etc/k.d/30.txt", "clusterDomain: c.example")
		n.process(7, 0, "/", ".", "kubelet", "--config=k.yaml", "--config-dir=/etc/k.d", "--cluster-dns=10.0.0.2")
		n.find(Options{}, "b.example", "k.yaml")
		f, err := Find(Options{Root: n.root})
		if err != nil || fmt.Sprint(f.ClusterDNS)+f.CgroupRoot != "[10.0.0.2]/kubelet" {
			t.Errorf("%+v, %v", f, err)
		}
	})
	t.Run("named file", func(t *testing.T) {
		n := newNode(t)
		n.write(DefaultFile, kubeadm)
		n.write("etc/k.yaml", "clusterDomain: a.example")
		n.find(Options{File: "/etc/k.yaml"}, "a.example", "/etc/k.yaml")
		if _, err := Find(Options{Root: n.root, File: "/none.yaml"}); err == nil {
			t.Error("a missing file is accepted")
		}
		n.write("etc/bad.yaml", "clusterDNS: [x]")
		if _, err := Find(Options{Root: n.root, File: "/etc/bad.yaml"}); err == nil || !strings.Contains(err.Error(), "/etc/bad.yaml: clusterDNS") {
			t.Errorf("%v", err)
		}
	})
	t.Run("impostors", func(t *testing.T) {
		n := newNode(t)
		n.write("var/lib/kubelet/x", "")
		args := []string{"kubelet", "--cluster-domain=com"}
		n.process(7, 1000, unit, ".", args...)
		n.process(8, 0, "/kubepods/besteffort/pod0f9b7e5c-5e0e-4b0e-9a55-0a8e7d1c2b3a/"+strings.Repeat("a", 64), ".", args...)
		n.process(9, 0, "/system.slice/docker-"+strings.Repeat("a", 64)+".scope", ".", args...)
		n.process(10, 0, "/user.slice/user-1000.slice/user@1000.service/x.service", ".", args...)
		n.process(11, 0, "/lxc/web/kubelet.service", ".", args...)
		n.process(12, 0, "/../../pod0f9b7e5c-5e0e-4b0e-9a55-0a8e7d1c2b3a/"+strings.Repeat("a", 64), ".", args...)
		n.find(Options{}, "", "")
	})
}
