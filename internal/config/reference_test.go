// SPDX-License-Identifier: Apache-2.0

package config

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"sotto/internal/dnstest"
)

const reference = "../../docs/sotto.toml"

// files are the files that a configuration under test can read.
type files map[string]string

func (f files) read(name string) ([]byte, error) {
	text, ok := f[name]
	if !ok {
		return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
	}
	return []byte(text), nil
}

// planText returns the settings and the plan of the text of a configuration file.
func planText(text string, o Options) (Settings, Plan, error) {
	s, err := Parse("sotto.toml", []byte(text))
	if err != nil {
		return s, Plan{}, err
	}
	p, err := s.Plan(o)
	return s, p, err
}

// TestReference: docs/sotto.toml contains every setting, with its default.
func TestReference(t *testing.T) {
	text, err := os.ReadFile(reference)
	if err != nil {
		t.Fatal(err)
	}
	got, p, err := planText(string(text), Options{Read: files{}.read})
	if err != nil {
		t.Fatal(err)
	}
	if len(p.Groups) != 1 || p.Rules.Set.Len() != 0 {
		t.Errorf("it defines groups or rules: %+v", p)
	}
	want := Default()
	missing := map[string]bool{}
	for _, f := range reflect.VisibleFields(reflect.TypeFor[Settings]()) {
		key := f.Tag.Get("toml")
		if key == "" || isTables(f.Type) {
			continue
		}
		has, def := reflect.ValueOf(got).FieldByIndex(f.Index), reflect.ValueOf(want).FieldByIndex(f.Index)
		if fmt.Sprint(has) != fmt.Sprint(def) {
			t.Errorf("%s is %v there: the default is %v", key, has, def)
		}
		missing[key] = !got.positions.has(key)
		if f.Type.Kind() != reflect.Struct {
			continue
		}
		for _, sub := range reflect.VisibleFields(f.Type) {
			key := key + "." + sub.Tag.Get("toml")
			missing[key] = !got.positions.has(key)
		}
	}
	// Tables occur only in examples.
	for table, typ := range map[string]reflect.Type{"group": reflect.TypeFor[GroupBlock](), "rule": reflect.TypeFor[RuleBlock]()} {
		block := ""
		for _, example := range examples(string(text)) {
			if strings.HasPrefix(example, "[["+table+"]]") {
				block += example
			}
		}
		for _, f := range reflect.VisibleFields(typ) {
			if key := f.Tag.Get("toml"); key != "" {
				missing[table+"."+key] = !strings.Contains(block, "\n"+key+" = ")
			}
		}
	}
	if len(missing) < 30 {
		t.Errorf("found %d settings: want more", len(missing))
	}
	for key, is := range missing {
		if is {
			t.Errorf("docs/sotto.toml does not explain %s", key)
		}
	}
}

// examples returns the parts of a text whose lines start with "#   ": a table with its
// keys, or a single line.
func examples(text string) []string {
	var all []string
	open := false // the last example is a table
	for line := range strings.Lines(text) {
		line, is := strings.CutPrefix(line, "#   ")
		table := strings.HasPrefix(line, "[[")
		switch {
		case !is:
			open = false
			continue
		case open && !table:
			all[len(all)-1] += line
		default:
			all = append(all, line)
			open = table
		}
	}
	return all
}

// TestReferenceExamples: the examples in the comments of the reference are valid.
func TestReferenceExamples(t *testing.T) {
	text, err := os.ReadFile(reference)
	if err != nil {
		t.Fatal(err)
	}
	ca, err := dnstest.NewCA()
	if err != nil {
		t.Fatal(err)
	}
	pem := string(ca.PEM())
	pair := clientPair(t)
	f := Options{Read: files{"/etc/sotto/client.pem": pair[0], "/etc/sotto/client-key.pem": pair[1], "/etc/sotto/ca.pem": pem, "/etc/sotto/work.pem": pem, "/etc/sotto/blocked.txt": "ads.example\n", "/etc/hosts": "::1 localhost\n", "/etc/sotto/work.key": "work.example. IN DS 4711 13 2 " + strings.Repeat("2a", 32) + "\n"}.read}
	tables := ""
	n := 0
	top, table, _ := strings.Cut(string(text), "\n[kubernetes]\n")
	all := examples(top)
	for _, example := range examples(table) {
		all = append(all, "[kubernetes]\n"+example)
	}
	for _, example := range all {
		n++
		if strings.HasPrefix(example, "[[") {
			tables += example
		} else if _, _, err := planText(example, f); err != nil {
			t.Errorf("%s%v", example, err)
		}
	}
	if n < 14 {
		t.Errorf("found %d examples: want more", n)
	}
	_, p, err := planText(string(text)+tables, f)
	if err != nil {
		t.Fatal(err)
	}
	if _, ok := p.Groups["work"]; !ok || !slices.Equal(p.Rules.Uses, []string{"work", UsePlain, UseNoData, UsePlain, UsePlain, UseRefuse, UsePlain, "", "", UseNull, UseNull}) {
		t.Errorf("groups %v, rules use %v", p.GroupNames(), p.Rules.Uses)
	}
}

// TestOperatingExamples: the configurations in docs/OPERATING.md are valid.
func TestOperatingExamples(t *testing.T) {
	text, err := os.ReadFile("../../docs/OPERATING.md")
	if err != nil {
		t.Fatal(err)
	}
	ca, err := dnstest.NewCA()
	if err != nil {
		t.Fatal(err)
	}
	pair := clientPair(t)
	f := Options{Read: files{"/etc/sotto/client.pem": pair[0], "/etc/sotto/client-key.pem": pair[1], "/etc/sotto/ca.pem": string(ca.PEM()),
		"/etc/sotto/blocked.txt": "ads.example\n", "/etc/sotto/allowed.txt": "own.ads.example\n", "/etc/sotto/hosts": "::1 localhost\n",
		"/etc/sotto/redis-password": "pass", "/etc/sotto/shared-cache-secret": strings.Repeat("s", 44)}.read}
	n := 0
	for _, part := range strings.Split(string(text), "\n```toml\n")[1:] {
		n++
		config, _, _ := strings.Cut(part, "```")
		// No such group exists on the machine of the test.
		if _, _, err := planText(strings.ReplaceAll(config, `control-group = "sotto"`, `control-group = "986"`), f); err != nil {
			t.Errorf("%s%v", config, err)
		}
	}
	if n < 10 {
		t.Errorf("found %d configurations: want more", n)
	}
}

// TestKubernetesConfigurations: the configurations of the Kubernetes manifests are valid.
func TestKubernetesConfigurations(t *testing.T) {
	found, err := filepath.Glob("../../deploy/kubernetes/*/sotto.toml")
	if err != nil || len(found) < 2 {
		t.Fatalf("configurations: %v, %v", found, err)
	}
	for _, file := range found {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		serve := strings.Contains(file, "/forwarder/")
		_, p, err := planText(string(text), Options{Serve: serve, Read: files{}.read})
		// What the probes use.
		if err != nil || (p.ProbeSocket == "") != serve || (p.Control == "" || p.Drain == 0) && serve || serve && p.Rules.Set.Len() == 0 {
			t.Errorf("%s: %v, probe-socket %q, control %q, drain %v, %d rules", file, err, p.ProbeSocket, p.Control, p.Drain, p.Rules.Set.Len())
		}
	}
}
