// SPDX-License-Identifier: Apache-2.0

package archtest

import (
	"encoding/json"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// pkg is a package, as the go command describes it.
type pkg struct {
	ImportPath                         string
	Imports, TestImports, XTestImports []string
}

// all returns what the package's code and its tests import.
func (p pkg) all() []string {
	return slices.Concat(p.Imports, p.TestImports, p.XTestImports)
}

// root returns the module's directory.
func root(t *testing.T) string {
	t.Helper()
	dir, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

func packages(t *testing.T) []pkg {
	t.Helper()
	cmd := exec.Command("go", "list", "-json=ImportPath,Imports,TestImports,XTestImports", "./...")
	cmd.Dir, cmd.Stderr = root(t), os.Stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	var pkgs []pkg
	for d := json.NewDecoder(strings.NewReader(string(out))); d.More(); {
		var p pkg
		if err := d.Decode(&p); err != nil {
			t.Fatal(err)
		}
		pkgs = append(pkgs, p)
	}
	if len(pkgs) < 8 {
		t.Fatalf("go list names %d packages, fewer than the tree has", len(pkgs))
	}
	return pkgs
}

// within reports whether path is the package at prefix, or below it.
func within(path string, prefixes ...string) bool {
	return slices.ContainsFunc(prefixes, func(p string) bool {
		return path == p || strings.HasPrefix(path, p+"/")
	})
}

// rule forbids packages to import others.
type rule struct {
	name   string
	of     func(pkg) bool
	what   func(pkg) []string
	banned func(imported string) bool
	bad    string // an import that the rule forbids, to show that it can fail
}

// imports returns what the package's code imports, without its tests.
func (p pkg) imports() []string { return p.Imports }

// only is the rule that the code of one package imports no package of Sotto except those in
// allowed.
func only(path string, allowed ...string) rule {
	name := strings.TrimPrefix(path, "sotto/") + " imports only " + strings.Join(allowed, ", ")
	if len(allowed) == 0 {
		name = strings.TrimPrefix(path, "sotto/") + " imports nothing of Sotto"
	}
	return rule{name, func(p pkg) bool { return p.ImportPath == path }, pkg.imports,
		func(i string) bool { return within(i, "sotto") && i != path && !slices.Contains(allowed, i) }, "sotto/cmd/sotto"}
}

// usedBy is the rule that only the code of the users imports a package or one below it.
func usedBy(path string, users ...string) rule {
	name := strings.TrimPrefix(path, "sotto/") + " is imported only by " + strings.Join(users, ", ")
	return rule{name, func(p pkg) bool { return !within(p.ImportPath, users...) && !within(p.ImportPath, path) }, pkg.imports,
		func(i string) bool { return within(i, path) }, path}
}

// TestDependencies checks the direction of imports: cmd → internal/daemon → {intercept,
// forwarder, internal/config, internal/takeover} → leaves.
// intercept and forwarder do not import each other, only intercept imports libraries for the
// kernel's interfaces, and no package below intercept imports intercept.
func TestDependencies(t *testing.T) {
	rules := []rule{
		{"forwarder does not import intercept", func(p pkg) bool { return within(p.ImportPath, "sotto/forwarder") }, pkg.all,
			func(i string) bool {
				return within(i, "sotto/intercept", "sotto/cmd", "sotto/internal/netlab/labtest")
			}, "sotto/intercept/cgroup"},
		{"intercept does not import forwarder", func(p pkg) bool { return within(p.ImportPath, "sotto/intercept") }, pkg.all,
			func(i string) bool { return within(i, "sotto/forwarder", "sotto/cmd") }, "sotto/forwarder/wire"},
		{"only intercept and netns use ebpf and netlink", func(p pkg) bool { return !within(p.ImportPath, "sotto/intercept", "sotto/internal/netns") }, pkg.all,
			func(i string) bool {
				return within(i, "github.com/cilium/ebpf", "github.com/vishvananda/netlink", "github.com/vishvananda/netns")
			}, "github.com/cilium/ebpf/link"},
		{"cgroup, network, sockets and nat do not use ebpf", func(p pkg) bool {
			return within(p.ImportPath, "sotto/intercept/cgroup", "sotto/intercept/network", "sotto/intercept/sockets", "sotto/intercept/nat")
		}, pkg.all, func(i string) bool { return within(i, "github.com/cilium/ebpf") }, "github.com/cilium/ebpf"},
		{"only nat and filters use nftables", func(p pkg) bool {
			return p.ImportPath != "sotto/intercept/nat" && p.ImportPath != "sotto/intercept/filters"
		}, pkg.all,
			func(i string) bool { return within(i, "github.com/google/nftables", "github.com/mdlayher/netlink") }, "github.com/google/nftables"},
		only("sotto/intercept/attached"),
		only("sotto/intercept/cgroup", "sotto/internal/mountinfo"),
		only("sotto/intercept/feature"),
		only("sotto/intercept/filters", "sotto/intercept/attached"),
		only("sotto/intercept/guard", "sotto/intercept/cgroup", "sotto/intercept/network", "sotto/intercept/pins", "sotto/internal/netns"),
		only("sotto/intercept/local", "sotto/intercept/guard", "sotto/intercept/network", "sotto/intercept/spaces"),
		only("sotto/intercept/spaces", "sotto/intercept/cgroup", "sotto/internal/mountinfo", "sotto/internal/netns"),
		only("sotto/intercept/nat", "sotto/internal/netns"),
		only("sotto/intercept/network", "sotto/internal/netns"),
		only("sotto/intercept/others", "sotto/intercept/attached"),
		only("sotto/intercept/pins", "sotto/internal/netns"),
		only("sotto/intercept/registry", "sotto/intercept/cgroup"),
		usedBy("sotto/intercept/registry", "sotto/intercept"),
		only("sotto/intercept/hits", "sotto/intercept/pins", "sotto/intercept/references"),
		usedBy("sotto/intercept/hits", "sotto/intercept", "sotto/internal/daemon"),
		only("sotto/intercept/references", "sotto/intercept/feature"),
		only("sotto/intercept/sockets", "sotto/internal/mountinfo", "sotto/internal/netns"),
		only("sotto/internal/mountinfo"),
		only("sotto/internal/names"),
		only("sotto/internal/netns"),
		{"tests of netns import nothing of Sotto", func(p pkg) bool { return p.ImportPath == "sotto/internal/netns" }, pkg.all,
			func(i string) bool { return within(i, "sotto") && i != "sotto/internal/netns" }, "sotto/internal/netlab"},
		{"clienttest, historytest, filterstest and otherstest are for tests", func(p pkg) bool {
			return !within(p.ImportPath, "sotto/intercept/clienttest", "sotto/intercept/historytest")
		}, pkg.imports,
			func(i string) bool {
				return within(i, "sotto/intercept/clienttest", "sotto/intercept/historytest", "sotto/intercept/filters/filterstest", "sotto/intercept/others/otherstest")
			}, "sotto/intercept/clienttest"},
		only("sotto/internal/ratelog"),
		only("sotto/internal/nssockets", "sotto/internal/mountinfo"),
		usedBy("sotto/internal/nssockets", "sotto/cmd/sotto"),
		only("sotto/internal/pathtest", "sotto/intercept/cgroup", "sotto/intercept/filters", "sotto/internal/netns"),
		usedBy("sotto/internal/pathtest", "sotto/internal/daemon", "sotto/cmd/sotto"),
		only("sotto/internal/resolved"),
		usedBy("sotto/internal/resolved", "sotto/internal/daemon"),
		{"only resolved and service use D-Bus", func(p pkg) bool {
			return p.ImportPath != "sotto/internal/resolved" && p.ImportPath != "sotto/internal/service"
		}, pkg.imports,
			func(i string) bool { return within(i, "github.com/godbus/dbus/v5", "github.com/coreos/go-systemd/v22") }, "github.com/godbus/dbus/v5"},
		only("sotto/internal/service"),
		usedBy("sotto/internal/service", "sotto/internal/daemon", "sotto/cmd/sotto"),
		only("sotto/forwarder/admission"),
		only("sotto/forwarder/workers"),
		{"wire and its tests import nothing of Sotto", func(p pkg) bool { return p.ImportPath == "sotto/forwarder/wire" }, pkg.all,
			func(i string) bool { return within(i, "sotto") && i != "sotto/forwarder/wire" }, "sotto/forwarder"},
		only("sotto/forwarder/cache", "sotto/forwarder/wire"),
		only("sotto/forwarder/failures", "sotto/forwarder/wire"),
		only("sotto/forwarder/shared", "sotto/forwarder/wire", "sotto/internal/ratelog"),
		only("sotto/forwarder/shared/redis", "sotto/forwarder/shared"),
		usedBy("sotto/forwarder/shared/redis", "sotto/internal/daemon"),
		{"only forwarder/shared/redis uses redigo", func(p pkg) bool { return p.ImportPath != "sotto/forwarder/shared/redis" }, pkg.imports,
			func(i string) bool { return within(i, "github.com/gomodule/redigo") }, "github.com/gomodule/redigo/redis"},
		only("sotto/forwarder/tap"),
		only("sotto/forwarder/served"),
		only("sotto/forwarder/dns64", "sotto/forwarder/wire"),
		usedBy("sotto/forwarder/dns64", "sotto/internal/config", "sotto/internal/daemon"),
		only("sotto/forwarder/rebind", "sotto/forwarder/wire"),
		usedBy("sotto/forwarder/rebind", "sotto/internal/daemon"),
		only("sotto/internal/outbound"),
		usedBy("sotto/internal/outbound", "sotto/internal/config", "sotto/internal/daemon"),
		only("sotto/forwarder/upstream/original", "sotto/forwarder/upstream/address", "sotto/forwarder/upstream", "sotto/forwarder/upstream/transport", "sotto/forwarder/wire"),
		usedBy("sotto/forwarder/upstream/original", "sotto/internal/config", "sotto/internal/daemon"),
		only("sotto/forwarder/upstream/split", "sotto/forwarder/wire"),
		only("sotto/forwarder/upstream/health"),
		only("sotto/forwarder/upstream/order", "sotto/forwarder/upstream/split"),
		usedBy("sotto/forwarder/upstream/health", "sotto/forwarder/upstream"),
		usedBy("sotto/forwarder/upstream/order", "sotto/forwarder/upstream", "sotto/internal/config", "sotto/internal/daemon"),
		usedBy("sotto/forwarder/upstream/split", "sotto/forwarder/upstream", "sotto/forwarder/upstream/order", "sotto/internal/config"),
		only("sotto/forwarder/dnssec", "sotto/forwarder/wire", "sotto/forwarder/dnssec/anchor", "sotto/forwarder/dnssec/bounded", "sotto/forwarder/dnssec/denial", "sotto/forwarder/dnssec/record", "sotto/forwarder/dnssec/signature"),
		only("sotto/forwarder/dnssec/anchor", "sotto/forwarder/wire", "sotto/forwarder/dnssec/record", "sotto/forwarder/dnssec/signature"),
		only("sotto/forwarder/dnssec/bounded"),
		only("sotto/forwarder/dnssec/denial", "sotto/forwarder/wire", "sotto/forwarder/dnssec/record"),
		only("sotto/forwarder/dnssec/record", "sotto/forwarder/wire"),
		only("sotto/forwarder/dnssec/signature", "sotto/forwarder/dnssec/bounded", "sotto/forwarder/dnssec/record"),
		usedBy("sotto/forwarder/dnssec", "sotto/internal/daemon", "sotto/internal/config"),
		{"only forwarder/dnssec/signature uses circl", func(p pkg) bool { return p.ImportPath != "sotto/forwarder/dnssec/signature" }, pkg.imports,
			func(i string) bool { return within(i, "github.com/cloudflare/circl") }, "github.com/cloudflare/circl/sign/ed448"},
		only("sotto/forwarder/upstream", "sotto/forwarder/served", "sotto/forwarder/upstream/health", "sotto/forwarder/upstream/order", "sotto/forwarder/upstream/split", "sotto/forwarder/wire", "sotto/forwarder/tap", "sotto/forwarder/upstream/transport", "sotto/forwarder/upstream/dot", "sotto/forwarder/upstream/doh", "sotto/forwarder/upstream/doh3", "sotto/forwarder/upstream/doq", "sotto/forwarder/upstream/auto", "sotto/forwarder/upstream/httpdns", "sotto/forwarder/upstream/address", "sotto/forwarder/upstream/bootstrap", "sotto/forwarder/upstream/proxy", "sotto/internal/durations"),
		only("sotto/forwarder/upstream/doq", "sotto/forwarder/wire", "sotto/forwarder/upstream/transport", "sotto/forwarder/upstream/secure", "sotto/forwarder/upstream/streams", "sotto/forwarder/upstream/quicdial"),
		only("sotto/forwarder/upstream/address", "sotto/forwarder/upstream/transport"),
		only("sotto/forwarder/upstream/auto", "sotto/forwarder/upstream/transport"),
		only("sotto/forwarder/upstream/bootstrap", "sotto/forwarder/wire", "sotto/forwarder/upstream/transport"),
		only("sotto/forwarder/upstream/transport", "sotto/forwarder/wire", "sotto/forwarder/tap", "sotto/forwarder/upstream/proxy", "sotto/internal/durations"),
		only("sotto/forwarder/upstream/proxy"),
		only("sotto/forwarder/upstream/conns", "sotto/forwarder/upstream/transport", "sotto/internal/durations"),
		only("sotto/forwarder/upstream/dot", "sotto/forwarder/wire", "sotto/forwarder/tap", "sotto/forwarder/upstream/transport", "sotto/forwarder/upstream/conns", "sotto/forwarder/upstream/secure", "sotto/internal/durations"),
		only("sotto/forwarder/upstream/secure", "sotto/forwarder/upstream/transport"),
		only("sotto/forwarder/upstream/streams", "sotto/forwarder/wire", "sotto/forwarder/tap", "sotto/forwarder/upstream/transport", "sotto/forwarder/upstream/conns", "sotto/forwarder/upstream/secure", "sotto/internal/durations"),
		only("sotto/forwarder/upstream/httpdns", "sotto/forwarder/wire", "sotto/forwarder/upstream/transport", "sotto/forwarder/upstream/streams"),
		only("sotto/forwarder/upstream/quicdial", "sotto/forwarder/upstream/transport", "sotto/forwarder/upstream/secure"),
		only("sotto/forwarder/upstream/doh", "sotto/forwarder/upstream/transport", "sotto/forwarder/upstream/secure", "sotto/forwarder/upstream/streams", "sotto/forwarder/upstream/httpdns"),
		only("sotto/forwarder/upstream/doh3", "sotto/forwarder/upstream/transport", "sotto/forwarder/upstream/secure", "sotto/forwarder/upstream/streams", "sotto/forwarder/upstream/httpdns", "sotto/forwarder/upstream/quicdial"),
		{"only upstreams over QUIC use quic-go", func(p pkg) bool { return !within(p.ImportPath, "sotto/forwarder/upstream") }, pkg.all,
			func(i string) bool { return within(i, "github.com/quic-go") }, "github.com/quic-go/quic-go"},
		only("sotto/internal/durations"),
		only("sotto/internal/metrics", "sotto/forwarder", "sotto/internal/durations", "sotto/internal/names", "sotto/internal/observe", "sotto/internal/status"),
		usedBy("sotto/internal/metrics", "sotto/internal/daemon"),
		only("sotto/internal/webpage", "sotto/forwarder", "sotto/internal/durations", "sotto/internal/observe", "sotto/internal/status"),
		usedBy("sotto/internal/webpage", "sotto/internal/daemon"),
		{"only metrics uses Prometheus", func(p pkg) bool { return p.ImportPath != "sotto/internal/metrics" }, pkg.imports,
			func(i string) bool { return within(i, "github.com/prometheus") }, "github.com/prometheus/client_golang/prometheus"},
		usedBy("sotto/forwarder/upstream/transport", "sotto/forwarder/upstream"),
		usedBy("sotto/forwarder/upstream/dot", "sotto/forwarder/upstream"),
		usedBy("sotto/forwarder/upstream/auto", "sotto/forwarder/upstream"),
		usedBy("sotto/forwarder/upstream/bootstrap", "sotto/forwarder/upstream"),
		usedBy("sotto/forwarder/upstream/address", "sotto/forwarder/upstream", "sotto/internal/config", "sotto/cmd/sotto"),
		usedBy("sotto/forwarder/upstream/secure", "sotto/forwarder/upstream"),
		usedBy("sotto/forwarder/upstream/conns", "sotto/forwarder/upstream/dot", "sotto/forwarder/upstream/streams"),
		usedBy("sotto/forwarder/upstream/streams", "sotto/forwarder/upstream"),
		usedBy("sotto/forwarder/upstream/quicdial", "sotto/forwarder/upstream/doh3", "sotto/forwarder/upstream/doq"),
		usedBy("sotto/forwarder/upstream/servertest"),
		only("sotto/forwarder/records", "sotto/forwarder/wire"),
		only("sotto/forwarder/rules", "sotto/forwarder/wire"),
		only("sotto/forwarder/plain", "sotto/forwarder/wire", "sotto/internal/ratelog"),
		only("sotto/forwarder/localnames", "sotto/forwarder/wire"),
		only("sotto/internal/config", "sotto/intercept", "sotto/forwarder/cache", "sotto/forwarder/dns64", "sotto/forwarder/dnssec/anchor", "sotto/forwarder/wire", "sotto/internal/outbound", "sotto/forwarder/localnames", "sotto/forwarder/records", "sotto/forwarder/rules", "sotto/forwarder/shared", "sotto/forwarder/upstream", "sotto/forwarder/upstream/order", "sotto/forwarder/upstream/original", "sotto/forwarder/upstream/split", "sotto/forwarder/upstream/address", "sotto/forwarder/upstream/proxy", "sotto/internal/lists", "sotto/internal/kubernetes/cluster", "sotto/internal/kubernetes/kubelet", "sotto/internal/kubernetes/pods"),
		only("sotto/internal/kubernetes/cluster", "sotto/forwarder/localnames", "sotto/forwarder/rules", "sotto/forwarder/wire"),
		only("sotto/internal/kubernetes/kubelet", "sotto/internal/names"),
		only("sotto/internal/kubernetes/podfile"),
		only("sotto/internal/kubernetes/agent", "sotto/internal/kubernetes/podfile"),
		usedBy("sotto/internal/kubernetes/agent", "sotto/cmd/sotto-kubernetes"),
		{"only sotto-kubernetes uses client-go", func(p pkg) bool {
			return !within(p.ImportPath, "sotto/internal/kubernetes/agent", "sotto/cmd/sotto-kubernetes")
		}, pkg.imports, func(i string) bool { return within(i, "k8s.io") }, "k8s.io/client-go/rest"},
		only("sotto/internal/kubernetes/pods", "sotto/forwarder/rules", "sotto/internal/kubernetes/podfile", "sotto/internal/names"),
		only("sotto/internal/lists", "sotto/forwarder/rules"),
		only("sotto/internal/control"),
		only("sotto/internal/manual"),
		only("sotto/internal/terminal"),
		usedBy("sotto/internal/manual", "sotto/cmd/sotto"),
		only("sotto/internal/takeover", "sotto/internal/control"),
		usedBy("sotto/internal/takeover", "sotto/internal/daemon"),
		only("sotto/internal/probe", "sotto/internal/control"),
		usedBy("sotto/internal/probe", "sotto/internal/daemon"),
		usedBy("sotto/internal/daemon", "sotto/internal/check", "sotto/cmd/sotto"),
		usedBy("sotto/internal/config", "sotto/internal/daemon", "sotto/internal/check", "sotto/cmd/sotto"),
		usedBy("sotto/internal/check", "sotto/cmd/sotto", "sotto/internal/e2e"),
		only("sotto/internal/top", "sotto/internal/observe", "sotto/internal/status"),
		usedBy("sotto/internal/top", "sotto/cmd/sotto"),
		{"only top draws on the terminal", func(p pkg) bool { return p.ImportPath != "sotto/internal/top" }, pkg.all,
			func(i string) bool { return within(i, "charm.land", "github.com/charmbracelet") }, "charm.land/bubbletea/v2"},
		{"top uses neither lipgloss nor bubbles, see its doc.go", func(p pkg) bool { return p.ImportPath == "sotto/internal/top" }, pkg.all,
			func(i string) bool { return within(i, "charm.land/lipgloss", "charm.land/bubbles") }, "charm.land/lipgloss/v2"},
		{"cmd/sotto runs the forwarder through daemon", func(p pkg) bool { return p.ImportPath == "sotto/cmd/sotto" }, pkg.imports,
			func(i string) bool {
				return within(i, "sotto/forwarder") && !within(i, "sotto/forwarder/upstream", "sotto/forwarder/upstream/address")
			}, "sotto/forwarder"},
		usedBy("sotto/internal/e2e"),
		{"miekg/dns is for tests", func(p pkg) bool {
			return !within(p.ImportPath, "sotto/internal/e2e", "sotto/internal/dnstap/dnstaptest", "sotto/scripts")
		}, pkg.imports,
			func(i string) bool { return within(i, "github.com/miekg/dns", "github.com/dnstap/golang-dnstap") }, "github.com/miekg/dns"},
		usedBy("sotto/internal/dnstap/dnstaptest"),
		// A template that is executed calls methods by name, and the linker then keeps those of all types: 3 MB.
		{"templates are not executed", func(pkg) bool { return true }, pkg.imports,
			func(i string) bool { return i == "html/template" || i == "text/template" }, "html/template"},
		{"nothing imports cmd", func(pkg) bool { return true }, pkg.all,
			func(i string) bool { return within(i, "sotto/cmd") }, "sotto/cmd/sotto"},
	}
	pkgs := packages(t)
	for _, r := range rules {
		t.Run(r.name, func(t *testing.T) {
			applied := 0
			for _, p := range pkgs {
				if !r.of(p) {
					continue
				}
				applied++
				for _, i := range r.what(p) {
					if r.banned(i) {
						t.Errorf("%s imports %s", p.ImportPath, i)
					}
				}
			}
			if applied == 0 {
				t.Error("this rule applies to no package: was one renamed?")
			}
			if !r.banned(r.bad) {
				t.Errorf("this rule does not forbid %s", r.bad)
			}
		})
	}
}

// TestLicenses checks that every source file names its license in its first line, that the C
// sources have one that the kernel accepts, and that bpf/ contains no Go.
func TestLicenses(t *testing.T) {
	seen := map[string]int{}
	err := filepath.WalkDir(root(t), func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			if d != nil && strings.HasPrefix(d.Name(), ".") && len(d.Name()) > 1 {
				return fs.SkipDir
			}
			return err
		}
		want := ""
		switch ext := filepath.Ext(path); {
		case strings.HasSuffix(path, "_bpfel.go"), strings.HasSuffix(path, "_bpfeb.go"):
			return nil // generated
		case ext == ".go" && filepath.Base(filepath.Dir(path)) == "bpf":
			t.Errorf("%s: Go bindings belong next to their user", path)
			return nil
		case ext == ".go":
			want = "// SPDX-License-Identifier: Apache-2.0"
		case (ext == ".c" || ext == ".h") && filepath.Base(filepath.Dir(path)) == "bpf":
			want = "SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause"
		default:
			return nil
		}
		seen[filepath.Ext(path)]++
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		first, _, _ := strings.Cut(string(text), "\n")
		if !strings.Contains(first, want) {
			t.Errorf("%s: the first line is %q: want %q", path, first, want)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if seen[".go"] < 30 || seen[".c"] < 1 {
		t.Errorf("checked %v, fewer files than the tree has", seen)
	}
}

// TestGuarantees checks that every test that docs/SECURITY.md names exists.
func TestGuarantees(t *testing.T) {
	text, err := os.ReadFile(filepath.Join(root(t), "docs/SECURITY.md"))
	if err != nil {
		t.Fatal(err)
	}
	named := regexp.MustCompile("`((?:Test|Fuzz)[A-Za-z0-9]+)`").FindAllSubmatch(text, -1)
	if len(named) < 30 {
		t.Errorf("it names %d tests, fewer than there are promises", len(named))
	}
	there := map[string]bool{}
	err = filepath.WalkDir(root(t), func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, "_test.go") {
			return err
		}
		code, err := os.ReadFile(path)
		for _, f := range regexp.MustCompile(`(?m)^func ((?:Test|Fuzz)\w+)\(`).FindAllSubmatch(code, -1) {
			there[string(f[1])] = true
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range named {
		if !there[string(name[1])] {
			t.Errorf("docs/SECURITY.md names %s: no such test", name[1])
		}
	}
}
