// SPDX-License-Identifier: Apache-2.0

package config

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"sotto/forwarder/records"
	"sotto/forwarder/rules"
	"sotto/internal/lists"
)

// Actions of a rule, which are not names of groups.
const (
	UsePlain    = "plain" // forward in plain DNS to the original destination
	UseRefuse   = "refuse"
	UseNoData   = "nodata"
	UseNXDomain = "nxdomain"
	UseNull     = "null" // answer with 0.0.0.0 and ::
)

var actionNames = []string{UsePlain, UseRefuse, UseNoData, UseNXDomain, UseNull}

// Rules are the compiled rules.
type Rules struct {
	Set     *rules.Set
	Uses    []string       // the group or action of each rule; "" if it has records
	Records []*records.Set // the records that a rule answers with, or nil
	Lists   []lists.Info   // of all rules, each once; with only the URL if it is not stored

	builtin  []string // names of the last rules, which are not in the configuration
	warnings []string // see Plan.Warn
	sources  *sources // see Plan.WithLists
}

// planRules reads the rules and the lists that they name.
func (s *Settings) planRules(from *sources) (p Rules, err error) {
	p.sources = from
	o := from.options
	o.Read = from.read
	list := make([]rules.Rule, len(s.Rules))
	for i, r := range s.Rules {
		path := fmt.Sprintf("rule[%d]", i)
		if err := s.checkUse(o, path, r, from.groups); err != nil {
			return p, err
		}
		if list[i], err = s.planRule(o, path, r); err != nil {
			return p, err
		}
		set, names, err := s.planRecords(o, path, r)
		if err != nil {
			return p, err
		}
		list[i].Names = append(list[i].Names, names...)
		if r.Lists != nil {
			if err := s.planListNames(path, texts(r.Lists), &list[i], &p); err != nil {
				return p, err
			}
		}
		p.Uses, p.Records = append(p.Uses, r.Use), append(p.Records, set)
	}
	list = from.cluster.addBuiltin(&p, list)
	if p.Set, err = rules.Compile(list); err != nil {
		return p, s.invalidRule(err)
	}
	for _, i := range p.Set.Shadowed() {
		if i >= len(s.Rules) {
			continue // a built-in rule may be replaced
		}
		p.warnings = append(p.warnings, s.At(fmt.Sprintf("rule[%d]", i),
			errors.New("it never matches, because earlier rules match all of its queries: move it up, or remove it")).Error())
	}
	return p, nil
}

// checkUse validates the action of the rule at path.
func (s *Settings) checkUse(o Options, path string, r RuleBlock, groups map[string]Group) error {
	_, exists := groups[r.Use]
	actions := 0
	for _, has := range []bool{r.Use != "", r.Address != nil, r.HostsFile != nil} {
		if has {
			actions++
		}
	}
	switch {
	case actions == 0:
		return s.invalidf(path, `no action: add one, such as use = "refuse"`)
	case actions > 1:
		return s.invalidf(path, "it has more than one of use, address and hosts-file: split it into one rule for each")
	case r.Address != nil, r.HostsFile != nil:
	case r.Use == UsePlain && o.Serve:
		return s.invalidf(path+".use", "'sotto serve' does not know the original destination of a query, so it cannot forward to it: use a group")
	case exists, slices.Contains(actionNames, r.Use):
	default:
		return s.invalidf(path+".use", "unknown group %q: the groups are %s; the other actions are %s",
			r.Use, groupNames(groups), strings.Join(actionNames, ", "))
	}
	for key, v := range map[string]OneOrMore{"nameserver": r.Nameserver, "workload": r.Workload, "pod": r.Pod, "pod-label": r.PodLabel, "namespace-label": r.Namespace} {
		if o.Serve && v != nil {
			return s.invalidf(path+"."+key, "'sotto serve' does not know the %s of a query, so the rule would never match: remove it", key)
		}
	}
	for key, v := range map[string]OneOrMore{"pod-label": r.PodLabel, "namespace-label": r.Namespace} {
		if v != nil && s.Kubernetes.PodsFile == "" {
			return s.invalidf(path+"."+key, "labels are not known without pods-file in [kubernetes]: set it to the file that sotto-kubernetes writes")
		}
	}
	return nil
}

// planRule reads the conditions of the rule at path.
func (s *Settings) planRule(o Options, path string, r RuleBlock) (rules.Rule, error) {
	rule := rules.Rule{
		Workloads: texts(r.Workload), Pods: texts(r.Pod), PodLabels: texts(r.PodLabel), NamespaceLabels: texts(r.Namespace),
		Names: texts(r.Name), Types: texts(r.Type), RD: r.RD, Opcodes: texts(r.Opcode), Use: r.Use,
		IfKnown: r.Use == UsePlain, // a query never leaves in plain because of what is not known
	}
	for i, text := range texts(r.Nameserver) {
		p, err := netip.ParsePrefix(text)
		if a, aerr := netip.ParseAddr(text); aerr == nil {
			p, err = netip.PrefixFrom(a, a.BitLen()), nil
		}
		if err != nil {
			return rule, s.invalidf(fmt.Sprintf("%s.nameserver[%d]", path, i), "%q is not an address or a network: want one such as 10.0.0.53, 10.0.0.0/8 or 2001:db8::/32", text)
		}
		rule.Nameservers = append(rule.Nameservers, p)
	}
	for i, file := range texts(r.NamesFile) {
		at := fmt.Sprintf("%s.names-file[%d]", path, i)
		text, err := o.Read(file)
		if err != nil {
			return rule, s.At(at, fmt.Errorf("read a list of names: %w", err))
		}
		names, err := rules.ReadNames(bytes.NewReader(text))
		if err != nil {
			return rule, s.At(at, fmt.Errorf("%s: %w", file, err))
		}
		if len(names) == 0 && len(rule.Names) == 0 && r.Lists == nil {
			// Without any name the rule would match every name.
			return rule, s.At(at, fmt.Errorf("%s contains no name: add one, or remove the rule", file))
		}
		rule.Names = append(rule.Names, names...)
	}
	// An empty list is an error: as a condition it would match everything.
	for key, v := range map[string]OneOrMore{"workload": r.Workload, "pod": r.Pod, "pod-label": r.PodLabel, "namespace-label": r.Namespace, "name": r.Name, "names-file": r.NamesFile, "lists": r.Lists, "nameserver": r.Nameserver, "type": r.Type, "opcode": r.Opcode, "address": r.Address, "hosts-file": r.HostsFile} {
		if v != nil && len(texts(v)) == 0 {
			return rule, s.invalidf(path+"."+key, "it is empty: add a value, or remove the setting to match all queries")
		}
	}
	return rule, nil
}

// planRecords reads the records that the rule at path answers with, and the names to which
// they restrict the rule. The set is nil if the rule has another action.
func (s *Settings) planRecords(o Options, path string, r RuleBlock) (set *records.Set, names []string, err error) {
	var addrs []netip.Addr
	for i, text := range texts(r.Address) {
		at := fmt.Sprintf("%s.address[%d]", path, i)
		a, err := netip.ParseAddr(text)
		if err != nil {
			return nil, nil, s.invalidf(at, "%q is not an address: want one such as 192.0.2.1 or 2001:db8::1", text)
		}
		addrs = append(addrs, a)
		if set, err = records.Addresses(addrs); err != nil {
			return nil, nil, s.invalid(at, err)
		}
	}
	if r.HostsFile == nil {
		return set, nil, nil
	}
	if r.Name != nil || r.NamesFile != nil || r.Lists != nil {
		return nil, nil, s.invalidf(path+".hosts-file", "it has the names of the rule: remove name, names-file and lists")
	}
	var hosts records.Hosts
	for i, file := range texts(r.HostsFile) {
		at := fmt.Sprintf("%s.hosts-file[%d]", path, i)
		text, err := o.Read(file)
		if err != nil {
			return nil, nil, s.At(at, fmt.Errorf("read a hosts file: %w", err))
		}
		if err := hosts.Read(file, bytes.NewReader(text)); err != nil {
			return nil, nil, s.At(at, err)
		}
	}
	if names = hosts.Names(); len(names) == 0 {
		// Without any name the rule would match every name.
		return nil, nil, s.invalidf(path+".hosts-file", "it contains no name: add one, or remove the rule")
	}
	return hosts.Set(), names, nil
}

// invalidRule adds the position to an error of the rule compiler.
func (s *Settings) invalidRule(err error) error {
	var in *rules.Error
	if !errors.As(err, &in) || in.Rule < 1 || in.Rule > len(s.Rules) {
		return s.At("rule", err)
	}
	r, path := s.Rules[in.Rule-1], fmt.Sprintf("rule[%d]", in.Rule-1)
	for _, c := range []struct {
		key  string
		v    OneOrMore
		rule func(text []string) rules.Rule
	}{
		{"workload", r.Workload, func(t []string) rules.Rule { return rules.Rule{Workloads: t} }},
		{"pod", r.Pod, func(t []string) rules.Rule { return rules.Rule{Pods: t} }},
		{"pod-label", r.PodLabel, func(t []string) rules.Rule { return rules.Rule{PodLabels: t} }},
		{"namespace-label", r.Namespace, func(t []string) rules.Rule { return rules.Rule{NamespaceLabels: t} }},
		{"name", r.Name, func(t []string) rules.Rule { return rules.Rule{Names: t} }},
		{"type", r.Type, func(t []string) rules.Rule { return rules.Rule{Types: t} }},
		{"opcode", r.Opcode, func(t []string) rules.Rule { return rules.Rule{Opcodes: t} }},
		{"nameserver", r.Nameserver, func(t []string) rules.Rule {
			rule, _ := s.planRule(Options{}, path, RuleBlock{Nameserver: t[0]}) // succeeded before
			return rule
		}},
	} {
		for i, text := range texts(c.v) {
			if _, err := rules.Compile([]rules.Rule{c.rule([]string{text})}); errors.As(err, &in) {
				return s.invalid(fmt.Sprintf("%s.%s[%d]", path, c.key, i), in.Err)
			}
		}
	}
	if in.Field == "rd" {
		path += ".rd"
	}
	return s.invalid(path, in.Err)
}
