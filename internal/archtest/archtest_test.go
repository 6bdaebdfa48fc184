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

// pkg is one package as listed by go list.
type pkg struct {
	ImportPath                         string
	Imports, TestImports, XTestImports []string
}

// allImports returns what the package and its tests import.
func (p pkg) allImports() []string {
	return slices.Concat(p.Imports, p.TestImports, p.XTestImports)
}

// root returns the module's root directory.
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
		t.Fatalf("go list returned only %d packages", len(pkgs))
	}
	return pkgs
}

// within reports whether path is one of the prefixes or below one.
func within(path string, prefixes ...string) bool {
	return slices.ContainsFunc(prefixes, func(p string) bool {
		return path == p || strings.HasPrefix(path, p+"/")
	})
}

// TestDependencies checks the dependency direction cmd → {intercept, forwarder} →
// leaves. The forwarder and the kernel side do not depend on each other, and only
// the kernel side uses libraries for eBPF, netlink and nftables.
func TestDependencies(t *testing.T) {
	rules := []struct {
		name      string
		applies   func(pkg) bool
		imports   func(pkg) []string
		forbidden func(imported string) bool
	}{
		{"forwarder does not import the kernel side", func(p pkg) bool { return within(p.ImportPath, "sotto/forwarder") }, pkg.allImports,
			func(i string) bool {
				return within(i, "sotto/intercept", "sotto/bpf", "sotto/cmd", "sotto/internal/netlab/labtest")
			}},
		{"kernel side does not import forwarder", func(p pkg) bool { return within(p.ImportPath, "sotto/intercept", "sotto/bpf") }, pkg.allImports,
			func(i string) bool { return within(i, "sotto/forwarder", "sotto/cmd") }},
		{"only the kernel side imports ebpf and netlink", func(p pkg) bool { return !within(p.ImportPath, "sotto/intercept", "sotto/bpf", "sotto/internal/netns") }, pkg.allImports,
			func(i string) bool {
				return within(i, "github.com/cilium/ebpf", "github.com/vishvananda/netlink", "github.com/vishvananda/netns")
			}},
		{"only nat imports nftables", func(p pkg) bool { return p.ImportPath != "sotto/intercept/nat" }, pkg.allImports,
			func(i string) bool { return within(i, "github.com/google/nftables", "github.com/mdlayher/netlink") }},
		{"nat imports only netns", func(p pkg) bool { return p.ImportPath == "sotto/intercept/nat" },
			func(p pkg) []string { return p.Imports },
			func(i string) bool { return within(i, "sotto") && i != "sotto/internal/netns" }},
		{"bpf is a leaf", func(p pkg) bool { return p.ImportPath == "sotto/bpf" }, pkg.allImports,
			func(i string) bool { return within(i, "sotto/intercept", "sotto/internal") }},
		{"netns is a leaf", func(p pkg) bool { return p.ImportPath == "sotto/internal/netns" }, pkg.allImports,
			func(i string) bool { return within(i, "sotto") && i != "sotto/internal/netns" }},
		{"wire is a leaf", func(p pkg) bool { return p.ImportPath == "sotto/forwarder/wire" }, pkg.allImports,
			func(i string) bool { return within(i, "sotto") && i != "sotto/forwarder/wire" }},
		{"cache and upstream import only wire", func(p pkg) bool { return within(p.ImportPath, "sotto/forwarder/cache", "sotto/forwarder/upstream") },
			func(p pkg) []string { return p.Imports },
			func(i string) bool { return within(i, "sotto") && i != "sotto/forwarder/wire" }},
		{"rules imports only wire", func(p pkg) bool { return within(p.ImportPath, "sotto/forwarder/rules") },
			func(p pkg) []string { return p.Imports },
			func(i string) bool { return within(i, "sotto") && i != "sotto/forwarder/wire" }},
		{"plain imports only wire", func(p pkg) bool { return within(p.ImportPath, "sotto/forwarder/plain") },
			func(p pkg) []string { return p.Imports },
			func(i string) bool { return within(i, "sotto") && i != "sotto/forwarder/wire" }},
		{"only tests import miekg/dns", func(pkg) bool { return true }, func(p pkg) []string { return p.Imports },
			func(i string) bool { return within(i, "github.com/miekg/dns") }},
		{"nothing imports cmd", func(pkg) bool { return true }, pkg.allImports,
			func(i string) bool { return within(i, "sotto/cmd") }},
	}
	pkgs := packages(t)
	for _, r := range rules {
		t.Run(r.name, func(t *testing.T) {
			applied := 0
			for _, p := range pkgs {
				if !r.applies(p) {
					continue
				}
				applied++
				for _, i := range r.imports(p) {
					if r.forbidden(i) {
						t.Errorf("%s imports %s", p.ImportPath, i)
					}
				}
			}
			if applied == 0 {
				t.Error("the rule applies to no package: was one renamed?")
			}
		})
	}
}

// TestLicenses checks that the first line of every source file names its license;
// for the BPF sources, a license that the kernel accepts.
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
		t.Errorf("checked only %v files", seen)
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
		t.Errorf("docs/SECURITY.md names only %d tests", len(named))
	}
	exists := map[string]bool{}
	err = filepath.WalkDir(root(t), func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, "_test.go") {
			return err
		}
		code, err := os.ReadFile(path)
		for _, f := range regexp.MustCompile(`(?m)^func ((?:Test|Fuzz)\w+)\(`).FindAllSubmatch(code, -1) {
			exists[string(f[1])] = true
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range named {
		if !exists[string(name[1])] {
			t.Errorf("docs/SECURITY.md names %s: no such test", name[1])
		}
	}
}
