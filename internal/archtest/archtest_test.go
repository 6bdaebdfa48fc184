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

// pkg is what the go command says of one package.
type pkg struct {
	ImportPath                         string
	Imports, TestImports, XTestImports []string
}

// all is what the package's code and its tests import.
func (p pkg) all() []string {
	return slices.Concat(p.Imports, p.TestImports, p.XTestImports)
}

// root is the module's directory.
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
		t.Fatalf("go list names %d packages: the tree has more", len(pkgs))
	}
	return pkgs
}

// within reports whether path is the package at prefix, or below it.
func within(path string, prefixes ...string) bool {
	return slices.ContainsFunc(prefixes, func(p string) bool {
		return path == p || strings.HasPrefix(path, p+"/")
	})
}

// TestDependencies holds the rule: cmd → {intercept, forwarder} → leaves. The
// two halves know nothing of each other, and only the kernel half knows the
// kernel's libraries.
func TestDependencies(t *testing.T) {
	rules := []struct {
		name   string
		of     func(pkg) bool
		what   func(pkg) []string
		banned func(imported string) bool
	}{
		{"the forwarder knows no kernel half", func(p pkg) bool { return within(p.ImportPath, "sotto/forwarder") }, pkg.all,
			func(i string) bool {
				return within(i, "sotto/intercept", "sotto/bpf", "sotto/cmd", "sotto/internal/netlab/labtest")
			}},
		{"the kernel half knows no forwarder", func(p pkg) bool { return within(p.ImportPath, "sotto/intercept", "sotto/bpf") }, pkg.all,
			func(i string) bool { return within(i, "sotto/forwarder", "sotto/cmd") }},
		{"only the kernel half uses ebpf and netlink", func(p pkg) bool { return !within(p.ImportPath, "sotto/intercept", "sotto/bpf", "sotto/internal/netns") }, pkg.all,
			func(i string) bool {
				return within(i, "github.com/cilium/ebpf", "github.com/vishvananda/netlink", "github.com/vishvananda/netns")
			}},
		{"only nat uses nftables", func(p pkg) bool { return p.ImportPath != "sotto/intercept/nat" }, pkg.all,
			func(i string) bool { return within(i, "github.com/google/nftables", "github.com/mdlayher/netlink") }},
		{"nat stands on netns alone", func(p pkg) bool { return p.ImportPath == "sotto/intercept/nat" },
			func(p pkg) []string { return p.Imports },
			func(i string) bool { return within(i, "sotto") && i != "sotto/internal/netns" }},
		{"bpf is a leaf", func(p pkg) bool { return p.ImportPath == "sotto/bpf" }, pkg.all,
			func(i string) bool { return within(i, "sotto/intercept", "sotto/internal") }},
		{"netns is a leaf", func(p pkg) bool { return p.ImportPath == "sotto/internal/netns" }, pkg.all,
			func(i string) bool { return within(i, "sotto") && i != "sotto/internal/netns" }},
		{"wire is a leaf", func(p pkg) bool { return p.ImportPath == "sotto/forwarder/wire" }, pkg.all,
			func(i string) bool { return within(i, "sotto") && i != "sotto/forwarder/wire" }},
		{"cache depends on wire alone", func(p pkg) bool { return within(p.ImportPath, "sotto/forwarder/cache") },
			func(p pkg) []string { return p.Imports },
			func(i string) bool { return within(i, "sotto") && i != "sotto/forwarder/wire" }},
		{"upstream depends on wire and its transports alone", func(p pkg) bool { return p.ImportPath == "sotto/forwarder/upstream" },
			func(p pkg) []string { return p.Imports },
			func(i string) bool {
				return within(i, "sotto") && !within(i, "sotto/forwarder/wire", "sotto/forwarder/upstream/transport", "sotto/forwarder/upstream/dot")
			}},
		{"the transport interface depends on wire alone", func(p pkg) bool { return p.ImportPath == "sotto/forwarder/upstream/transport" },
			func(p pkg) []string { return p.Imports },
			func(i string) bool { return within(i, "sotto") && i != "sotto/forwarder/wire" }},
		{"a transport depends on wire and the transport interface alone", func(p pkg) bool { return p.ImportPath == "sotto/forwarder/upstream/dot" },
			func(p pkg) []string { return p.Imports },
			func(i string) bool {
				return within(i, "sotto") && !within(i, "sotto/forwarder/wire", "sotto/forwarder/upstream/transport")
			}},
		{"only upstream uses transports", func(p pkg) bool { return !within(p.ImportPath, "sotto/forwarder/upstream") }, pkg.all,
			func(i string) bool {
				return within(i, "sotto/forwarder/upstream") && i != "sotto/forwarder/upstream"
			}},
		{"servertest is for tests", func(pkg) bool { return true }, func(p pkg) []string { return p.Imports },
			func(i string) bool { return i == "sotto/forwarder/upstream/servertest" }},
		{"rules stands on wire alone", func(p pkg) bool { return within(p.ImportPath, "sotto/forwarder/rules") },
			func(p pkg) []string { return p.Imports },
			func(i string) bool { return within(i, "sotto") && i != "sotto/forwarder/wire" }},
		{"plain stands on wire alone", func(p pkg) bool { return within(p.ImportPath, "sotto/forwarder/plain") },
			func(p pkg) []string { return p.Imports },
			func(i string) bool { return within(i, "sotto") && i != "sotto/forwarder/wire" }},
		{"miekg/dns is for tests", func(pkg) bool { return true }, func(p pkg) []string { return p.Imports },
			func(i string) bool { return within(i, "github.com/miekg/dns") }},
		{"nothing stands on cmd", func(pkg) bool { return true }, pkg.all,
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
				t.Error("no package is bound by this rule: was one renamed?")
			}
		})
	}
}

// TestLicences holds that every source says its licence in its first line, the
// kernel half the one that the kernel asks for.
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
		t.Errorf("looked at %v: the tree has more", seen)
	}
}

// TestPromises holds that every test that docs/SECURITY.md names is there.
func TestPromises(t *testing.T) {
	text, err := os.ReadFile(filepath.Join(root(t), "docs/SECURITY.md"))
	if err != nil {
		t.Fatal(err)
	}
	named := regexp.MustCompile("`((?:Test|Fuzz)[A-Za-z0-9]+)`").FindAllSubmatch(text, -1)
	if len(named) < 30 {
		t.Errorf("it names %d tests: the promises have more", len(named))
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
			t.Errorf("docs/SECURITY.md promises by %s: there is no such test", name[1])
		}
	}
}
