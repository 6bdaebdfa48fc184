// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"

	"sotto/forwarder/rules"
)

// What a rule may use besides a group. No group has such a name.
const (
	usePlain  = "plain" // plain, to the nameserver that was meant
	useRefuse = "refuse"
	useNoData = "nodata"
)

// rulePlan is the rules, compiled, and what each uses.
type rulePlan struct {
	set      *rules.Set
	uses     []string
	warnings []string // what is not wrong, but hardly meant
}

// planRules reads the rules and the lists that they name.
func (s *settings) planRules(f planFor, groups map[string]groupPlan) (p rulePlan, err error) {
	list := make([]rules.Rule, len(s.Rules))
	for i, r := range s.Rules {
		path := fmt.Sprintf("rule[%d]", i)
		if err := s.checkUse(f, path, r, groups); err != nil {
			return p, err
		}
		if list[i], err = s.planRule(f, path, r); err != nil {
			return p, err
		}
		p.uses = append(p.uses, r.Use)
	}
	if p.set, err = rules.Compile(list); err != nil {
		return p, s.wrongRule(err)
	}
	for _, i := range p.set.Shadowed() {
		p.warnings = append(p.warnings, s.at(fmt.Sprintf("rule[%d]", i),
			errors.New("it never decides: an earlier rule takes every query that it would: move it up, or leave it out")).Error())
	}
	return p, nil
}

// checkUse looks at what the rule at path is for.
func (s *settings) checkUse(f planFor, path string, r ruleBlock, groups map[string]groupPlan) error {
	_, known := groups[r.Use]
	switch {
	case r.Use == "":
		return s.wrongf(path, `it does not say what for: add use = "refuse", say`)
	case r.Use == usePlain && f.serve:
		return s.wrongf(path+".use", "'sotto serve' does not know which nameserver a client meant, so it can ask none in its stead: use a group")
	case known, r.Use == usePlain, r.Use == useRefuse, r.Use == useNoData:
	default:
		return s.wrongf(path+".use", "there is no group %q: the groups are %s; else it is %s, %s or %s",
			r.Use, groupNames(groups), usePlain, useRefuse, useNoData)
	}
	for key, v := range map[string]oneOrMore{"nameserver": r.Nameserver, "workload": r.Workload} {
		if f.serve && v != nil {
			return s.wrongf(path+"."+key, "'sotto serve' knows no %s of a query, so the rule would never decide: leave it out", key)
		}
	}
	return nil
}

// planRule reads the conditions of the rule at path.
func (s *settings) planRule(f planFor, path string, r ruleBlock) (rules.Rule, error) {
	rule := rules.Rule{Workloads: texts(r.Workload), Names: texts(r.Name), Types: texts(r.Type), Use: r.Use}
	for i, text := range texts(r.Nameserver) {
		p, err := netip.ParsePrefix(text)
		if a, aerr := netip.ParseAddr(text); aerr == nil {
			p, err = netip.PrefixFrom(a, a.BitLen()), nil
		}
		if err != nil {
			return rule, s.wrongf(fmt.Sprintf("%s.nameserver[%d]", path, i), "%q is no address and no network: want 10.0.0.53, 10.0.0.0/8 or 2001:db8::/32, say", text)
		}
		rule.Nameservers = append(rule.Nameservers, p)
	}
	for i, file := range texts(r.NamesFile) {
		at := fmt.Sprintf("%s.names-file[%d]", path, i)
		text, err := f.read(file)
		if err != nil {
			return rule, s.at(at, fmt.Errorf("read a list of names: %w", err))
		}
		names, err := rules.ReadNames(bytes.NewReader(text))
		if err != nil {
			return rule, s.at(at, fmt.Errorf("%s: %w", file, err))
		}
		if len(names) == 0 && len(rule.Names) == 0 {
			// With no name left the rule would be for every name.
			return rule, s.at(at, fmt.Errorf("%s has no name in it: add one, or leave the rule out", file))
		}
		rule.Names = append(rule.Names, names...)
	}
	// An empty list is a slip: as a condition it would be for everything.
	for key, v := range map[string]oneOrMore{"workload": r.Workload, "name": r.Name, "names-file": r.NamesFile, "nameserver": r.Nameserver, "type": r.Type} {
		if v != nil && len(texts(v)) == 0 {
			return rule, s.wrongf(path+"."+key, "it is empty: name one, or leave it out for all of them")
		}
	}
	return rule, nil
}

// wrongRule finds the place of what the compiler did not take.
func (s *settings) wrongRule(err error) error {
	var in *rules.Error
	if !errors.As(err, &in) || in.Rule < 1 || in.Rule > len(s.Rules) {
		return s.at("rule", err)
	}
	r, path := s.Rules[in.Rule-1], fmt.Sprintf("rule[%d]", in.Rule-1)
	for _, c := range []struct {
		key  string
		v    oneOrMore
		rule func(text []string) rules.Rule
	}{
		{"workload", r.Workload, func(t []string) rules.Rule { return rules.Rule{Workloads: t} }},
		{"name", r.Name, func(t []string) rules.Rule { return rules.Rule{Names: t} }},
		{"type", r.Type, func(t []string) rules.Rule { return rules.Rule{Types: t} }},
		{"nameserver", r.Nameserver, func(t []string) rules.Rule {
			rule, _ := s.planRule(planFor{}, path, ruleBlock{Nameserver: t[0]}) // was read before
			return rule
		}},
	} {
		for i, text := range texts(c.v) {
			if _, err := rules.Compile([]rules.Rule{c.rule([]string{text})}); errors.As(err, &in) {
				return s.wrong(fmt.Sprintf("%s.%s[%d]", path, c.key, i), in.Err)
			}
		}
	}
	return s.wrong(path, in.Err)
}
