// SPDX-License-Identifier: Apache-2.0

package config

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"sotto/forwarder/rules"
	"sotto/internal/lists"
)

const (
	// minListInterval spares the servers of lists.
	minListInterval = 10 * time.Minute

	// maxListInterval is a month; more is a typing error.
	maxListInterval = 31 * 24 * time.Hour
)

// sources are what the names of rules are read from.
type sources struct {
	settings Settings
	options  Options
	groups   map[string]Group
	cluster  KubernetesPlan
	store    lists.Store
	files    map[string][]byte // those that were read; nil if they are not kept
}

// newSources prepares to read what the rules name. The files that are read are kept, because the
// rules may be read again, for a list or for the kubelet: that must not put a file in force that was
// edited since, or read a pipe again.
func (s *Settings) newSources(o Options, groups map[string]Group, cluster KubernetesPlan) *sources {
	return &sources{
		settings: *s, options: o, groups: groups, cluster: cluster, store: lists.Store{Dir: s.listDir(o)}, files: map[string][]byte{},
	}
}

func (s *Settings) hasLists() bool {
	return slices.ContainsFunc(s.Rules, func(r RuleBlock) bool { return r.Lists != nil })
}

// read reads a file, or returns it as it was read before if files are kept.
func (src *sources) read(file string) ([]byte, error) {
	if text, ok := src.files[file]; ok {
		return text, nil
	}
	text, err := src.options.Read(file)
	if err == nil && src.files != nil {
		src.files[file] = text
	}
	return text, err
}

// WithLists returns the plan with the lists that are stored now. Everything else is as in p,
// also if files have changed since.
func (p Plan) WithLists() (Plan, error) {
	src := p.Rules.sources
	again, err := src.settings.planRules(src)
	if err != nil {
		return p, err
	}
	p.Rules = again
	return p, nil
}

// FindEntry returns the entry by which a rule, numbered from 1, matches a wire name, and the
// file or URL that has it. Both are "" if the name is in the configuration itself. Lists are
// searched as they are stored now, and files as they are now unless newSources keeps them.
func (p *Plan) FindEntry(rule int, query []byte) (entry, source string, err error) {
	src := p.Rules.sources
	if rule < 1 || rule > len(src.settings.Rules) {
		return "", "", nil
	}
	r := src.settings.Rules[rule-1]
	if slices.ContainsFunc(texts(r.Name), func(name string) bool { return rules.Includes(name, query) }) {
		return "", "", nil
	}
	var errs []error
	for _, file := range texts(r.NamesFile) {
		text, err := src.read(file)
		if err == nil {
			entry, err = rules.FindName(bytes.NewReader(text), query)
		}
		if entry != "" {
			return entry, file, nil
		}
		errs = append(errs, err)
	}
	for _, url := range texts(r.Lists) {
		if entry, err = src.store.Find(url, query); entry != "" {
			return entry, url, nil
		}
		if !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return "", "", errors.Join(errs...)
}

// listDir returns the directory of the lists. A service can often write to its own directory for state only.
func (s *Settings) listDir(o Options) string {
	switch {
	case s.ListDir != "":
		return s.ListDir
	case o.StateDir != "":
		return filepath.Join(o.StateDir, "lists")
	}
	return "/var/lib/sotto/lists"
}

// planLists reads the settings of all lists.
func (s *Settings) planLists(o Options, p *Plan) (err error) {
	if p.ListDir = s.listDir(o); !strings.HasPrefix(p.ListDir, "/") {
		return s.invalidf("list-dir", "%q is not an absolute path: want one such as /var/lib/sotto/lists", p.ListDir)
	}
	if p.ListInterval, err = time.ParseDuration(s.ListInterval); err != nil {
		return s.invalidf("list-interval", `%q is not a duration: want a number with its unit, such as "24h"`, s.ListInterval)
	}
	if p.ListInterval < minListInterval || p.ListInterval > maxListInterval {
		return s.invalidf("list-interval", "it is %s: want %s to %s", s.ListInterval, minListInterval, maxListInterval)
	}
	return nil
}

// planListNames adds to a rule, whose settings are at path, the names of its lists. A list that
// is not stored, or cannot be read, has none: only a running Sotto fetches lists.
func (s *Settings) planListNames(path string, urls []string, rule *rules.Rule, p *Rules) error {
	rule.NoNames = true
	for i, url := range urls {
		at := fmt.Sprintf("%s.lists[%d]", path, i)
		if err := lists.CheckURL(url); err != nil {
			return s.invalid(at, err)
		}
		names, info, err := p.sources.store.Names(url)
		if errors.Is(err, fs.ErrNotExist) {
			err = fmt.Errorf("%s was not fetched yet: until it is, the rule does not match its names", url)
		}
		if err != nil {
			p.warnings = append(p.warnings, s.At(at, err).Error())
			info = lists.Info{URL: url}
		}
		if !slices.ContainsFunc(p.Lists, func(l lists.Info) bool { return l.URL == url }) {
			p.Lists = append(p.Lists, info)
		}
		rule.Names = append(rule.Names, names...)
	}
	return nil
}
