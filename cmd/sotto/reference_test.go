// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"io/fs"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"

	"sotto/internal/dnstest"
)

const reference = "../../docs/sotto.toml"

// files are what a configuration under test may read.
type files map[string]string

func (f files) read(name string) ([]byte, error) {
	text, ok := f[name]
	if !ok {
		return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
	}
	return []byte(text), nil
}

// planText is what a configuration comes to.
func planText(text string, f planFor) (settings, plan, error) {
	s := defaultSettings()
	if err := s.decode("sotto.toml", []byte(text)); err != nil {
		return s, plan{}, err
	}
	p, err := s.plan(f)
	return s, p, err
}

// TestReference: the commented reference says the defaults, and is complete.
func TestReference(t *testing.T) {
	text, err := os.ReadFile(reference)
	if err != nil {
		t.Fatal(err)
	}
	got, p, err := planText(string(text), planFor{read: files{}.read})
	if err != nil {
		t.Fatal(err)
	}
	if len(p.groups) != 1 || p.rules.set.Len() != 0 {
		t.Errorf("it has groups or rules that nobody asked for: %+v", p)
	}
	want := defaultSettings()
	missing := map[string]bool{}
	for _, f := range reflect.VisibleFields(reflect.TypeFor[settings]()) {
		key := f.Tag.Get("toml")
		if key == "" || isTables(f.Type) {
			continue
		}
		has, def := reflect.ValueOf(got).FieldByIndex(f.Index), reflect.ValueOf(want).FieldByIndex(f.Index)
		if fmt.Sprint(has) != fmt.Sprint(def) {
			t.Errorf("%s is %v there: the default is %v", key, has, def)
		}
		missing[key] = !got.places.has(key)
	}
	// Of tables there are examples only.
	for table, typ := range map[string]reflect.Type{"group": reflect.TypeFor[groupBlock](), "rule": reflect.TypeFor[ruleBlock]()} {
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
		t.Errorf("looked for %d settings: there are more", len(missing))
	}
	for key, is := range missing {
		if is {
			t.Errorf("docs/sotto.toml does not explain %s", key)
		}
	}
}

// examples are the parts of a text whose lines begin with "#   ": a table and its
// keys, or else a single line.
func examples(text string) []string {
	var all []string
	open := false // the latest one is a table
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

// TestReferenceExamples: what the reference shows in comments is right as it
// stands.
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
	f := planFor{read: files{"/etc/sotto/ca.pem": pem, "/etc/sotto/work.pem": pem, "/etc/sotto/blocked.txt": "ads.example\n"}.read}
	tables := ""
	n := 0
	for _, example := range examples(string(text)) {
		n++
		if strings.HasPrefix(example, "[[") {
			tables += example
		} else if _, _, err := planText(example, f); err != nil {
			t.Errorf("%s%v", example, err)
		}
	}
	if n < 14 {
		t.Errorf("found %d examples: there are more", n)
	}
	_, p, err := planText(string(text)+tables, f)
	if err != nil {
		t.Fatal(err)
	}
	if _, ok := p.groups["work"]; !ok || !slices.Equal(p.rules.uses, []string{"work", usePlain, useNoData, useRefuse}) {
		t.Errorf("groups %v, rules for %v", groupNames(p.groups), p.rules.uses)
	}
}
