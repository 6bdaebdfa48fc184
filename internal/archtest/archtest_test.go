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

// pkg is the output of go list for one package.
type pkg struct {
	ImportPath                         string
	Imports, TestImports, XTestImports []string
}

// all returns the imports of the package and its tests.
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
		t.Fatalf("go list found %d packages: want more", len(pkgs))
	}
	return pkgs
}

// within reports whether path is the package at prefix, or below it.
func within(path string, prefixes ...string) bool {
	return slices.ContainsFunc(prefixes, func(p string) bool {
		return path == p || strings.HasPrefix(path, p+"/")
	})
}

// TestDependencies enforces the direction of imports: cmd → internal/daemon → {intercept,
// forwarder, internal/takeover, internal/config} → leaves. Packages intercept and forwarder
// do not import each other, and only intercept imports the libraries for eBPF and netlink.
func TestDependencies(t *testing.T) {
	rules := []struct {
		name   string
		of     func(pkg) bool
		what   func(pkg) []string
		banned func(imported string) bool
	}{
		{"forwarder does not import intercept", func(p pkg) bool { return within(p.ImportPath, "sotto/forwarder") }, pkg.all,
			func(i string) bool {
				return within(i, "sotto/intercept", "sotto/bpf", "sotto/cmd", "sotto/internal/netlab/labtest")
			}},
		{"intercept does not import forwarder", func(p pkg) bool { return within(p.ImportPath, "sotto/intercept", "sotto/bpf") }, pkg.all,
			func(i string) bool { return within(i, "sotto/forwarder", "sotto/cmd") }},
		{"only intercept, bpf and netns use ebpf and netlink", func(p pkg) bool { return !within(p.ImportPath, "sotto/intercept", "sotto/bpf", "sotto/internal/netns") }, pkg.all,
			func(i string) bool {
				return within(i, "github.com/cilium/ebpf", "github.com/vishvananda/netlink", "github.com/vishvananda/netns")
			}},
		{"only nat uses nftables", func(p pkg) bool { return p.ImportPath != "sotto/intercept/nat" }, pkg.all,
			func(i string) bool { return within(i, "github.com/google/nftables", "github.com/mdlayher/netlink") }},
		{"nat depends on netns only", func(p pkg) bool { return p.ImportPath == "sotto/intercept/nat" },
			func(p pkg) []string { return p.Imports },
			func(i string) bool { return within(i, "sotto") && i != "sotto/internal/netns" }},
		{"bpf is a leaf", func(p pkg) bool { return p.ImportPath == "sotto/bpf" }, pkg.all,
			func(i string) bool { return within(i, "sotto/intercept", "sotto/internal") }},
		{"netns is a leaf", func(p pkg) bool { return p.ImportPath == "sotto/internal/netns" }, pkg.all,
			func(i string) bool { return within(i, "sotto") && i != "sotto/internal/netns" }},
		{"wire is a leaf", func(p pkg) bool { return p.ImportPath == "sotto/forwarder/wire" }, pkg.all,
			func(i string) bool { return within(i, "sotto") && i != "sotto/forwarder/wire" }},
		{"cache and upstream depend on wire only", func(p pkg) bool { return within(p.ImportPath, "sotto/forwarder/cache", "sotto/forwarder/upstream") },
			func(p pkg) []string { return p.Imports },
			func(i string) bool { return within(i, "sotto") && i != "sotto/forwarder/wire" }},
		{"rules depends on wire only", func(p pkg) bool { return within(p.ImportPath, "sotto/forwarder/rules") },
			func(p pkg) []string { return p.Imports },
			func(i string) bool { return within(i, "sotto") && i != "sotto/forwarder/wire" }},
		{"plain depends on wire only", func(p pkg) bool { return within(p.ImportPath, "sotto/forwarder/plain") },
			func(p pkg) []string { return p.Imports },
			func(i string) bool { return within(i, "sotto") && i != "sotto/forwarder/wire" }},
		{"only tests use miekg/dns", func(p pkg) bool { return !within(p.ImportPath, "sotto/internal/e2e") }, func(p pkg) []string { return p.Imports },
			func(i string) bool { return within(i, "github.com/miekg/dns") }},
		{"only tests use the end-to-end harness", func(p pkg) bool { return !within(p.ImportPath, "sotto/internal/e2e") }, func(p pkg) []string { return p.Imports },
			func(i string) bool { return within(i, "sotto/internal/e2e") }},
		{"config depends on the configuration types only", func(p pkg) bool { return p.ImportPath == "sotto/internal/config" },
			func(p pkg) []string { return p.Imports },
			func(i string) bool {
				return within(i, "sotto") && i != "sotto/intercept" && !within(i, "sotto/forwarder/cache", "sotto/forwarder/rules", "sotto/forwarder/upstream")
			}},
		{"takeover depends on control only", func(p pkg) bool { return p.ImportPath == "sotto/internal/takeover" }, pkg.all,
			func(i string) bool { return within(i, "sotto") && i != "sotto/internal/control" }},
		{"control is a leaf", func(p pkg) bool { return p.ImportPath == "sotto/internal/control" }, pkg.all,
			func(i string) bool { return within(i, "sotto") }},
		{"only daemon uses takeover", func(p pkg) bool { return p.ImportPath != "sotto/internal/daemon" },
			func(p pkg) []string { return p.Imports },
			func(i string) bool { return within(i, "sotto/internal/takeover") }},
		{"only cmd/sotto uses daemon", func(p pkg) bool { return p.ImportPath != "sotto/cmd/sotto" }, pkg.all,
			func(i string) bool { return within(i, "sotto/internal/daemon") }},
		{"only daemon and cmd/sotto use config", func(p pkg) bool { return !within(p.ImportPath, "sotto/internal/daemon", "sotto/cmd/sotto") }, pkg.all,
			func(i string) bool { return within(i, "sotto/internal/config") }},
		{"cmd/sotto runs the forwarder through daemon", func(p pkg) bool { return p.ImportPath == "sotto/cmd/sotto" },
			func(p pkg) []string { return p.Imports },
			func(i string) bool { return within(i, "sotto/forwarder") && i != "sotto/forwarder/upstream" }},
		{"intercept and forwarder do not use the daemon's packages", func(p pkg) bool { return within(p.ImportPath, "sotto/intercept", "sotto/forwarder") }, pkg.all,
			func(i string) bool {
				return within(i, "sotto/internal/config", "sotto/internal/control", "sotto/internal/takeover", "sotto/internal/daemon")
			}},
		{"no package imports cmd", func(pkg) bool { return true }, pkg.all,
			func(i string) bool { return within(i, "sotto/cmd") }},
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
		})
	}
}

// TestLicences checks that the first line of every source file names its licence; for eBPF
// programs, one that the kernel accepts.
func TestLicences(t *testing.T) {
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
		t.Errorf("found %v: want more", seen)
	}
}

// TestPromises checks that every test that docs/SECURITY.md names exists.
func TestPromises(t *testing.T) {
	text, err := os.ReadFile(filepath.Join(root(t), "docs/SECURITY.md"))
	if err != nil {
		t.Fatal(err)
	}
	named := regexp.MustCompile("`((?:Test|Fuzz)[A-Za-z0-9]+)`").FindAllSubmatch(text, -1)
	if len(named) < 30 {
		t.Errorf("it names %d tests: want more", len(named))
	}
	tests := map[string]bool{}
	err = filepath.WalkDir(root(t), func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, "_test.go") {
			return err
		}
		code, err := os.ReadFile(path)
		for _, f := range regexp.MustCompile(`(?m)^func ((?:Test|Fuzz)\w+)\(`).FindAllSubmatch(code, -1) {
			tests[string(f[1])] = true
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range named {
		if !tests[string(name[1])] {
			t.Errorf("docs/SECURITY.md names %s: no such test exists", name[1])
		}
	}
}
