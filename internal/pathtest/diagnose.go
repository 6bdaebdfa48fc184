// SPDX-License-Identifier: Apache-2.0

package pathtest

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"sotto/intercept/filters"
)

// diagnose reports the failures of queries from a cgroup and a network namespace. root is the
// directory of the cgroup hierarchy. An error is about what could not be examined.
func (t *tester) diagnose(dir string, ns namespace, failures []failure) (Report, error) {
	e := evidence{Config: t.cfg, failures: failures, pid: ns.pid}
	var errs []error
	var err error
	e.programs, err = t.programsOf(dir, ns)
	errs = append(errs, err)
	e.host, err = readRuleset()
	errs = append(errs, err)
	if !ns.isHost() {
		errs = append(errs, ns.Do(func() error {
			e.inside, err = readRuleset()
			return err
		}))
	}
	transports := make([]string, 0, len(failures))
	for _, f := range failures {
		transports = append(transports, f.String())
	}
	return Report{
		Cgroup: dir, Netns: ns.name(), Transport: strings.Join(transports, ", "),
		Err: failures[0].err.Error(), Blocks: e.blocks(),
	}, errors.Join(errs...)
}

// readRuleset reads the filters of the calling thread's network namespace.
func readRuleset() (r ruleset, err error) {
	r.legacy4, r.legacy6 = filters.Legacy()
	r.chains, err = filters.Chains()
	return r, err
}

// programsOf returns the programs of other software on the cgroup dir and those above it. Only
// those of systemd are run to examine them.
func (t *tester) programsOf(dir string, ns namespace) (out []program, err error) {
	var errs []error
	for at := dir; ; at = filepath.Dir(at) {
		found, err := filters.Programs(at)
		errs = append(errs, err)
		for _, p := range found {
			out = append(out, program{p, t.verdicts(p, ns)})
		}
		if at == t.root || at == "/" {
			return out, errors.Join(errs...)
		}
	}
}

// verdicts returns what a program does to packets of IPv4 and IPv6.
func (t *tester) verdicts(p filters.Program, ns namespace) (out [2]verdict) {
	if p.Setting == filters.UnknownFilter || p.Setting == filters.Interfaces && !ns.isHost() {
		return out // the packets use an interface of the namespace
	}
	targets := newTargets(t.cfg)
	for _, a := range targets.virtual {
		family := 0
		if a.Is6() {
			family = 1
		}
		out[family] = targets.drops(p, a, targets.link)
	}
	return out
}

// forwards reports whether the host forwards packets of a family. Without that, a container
// cannot query any nameserver outside of the machine.
func forwards(v6 bool) bool {
	file := "/proc/sys/net/ipv4/ip_forward"
	if v6 {
		file = "/proc/sys/net/ipv6/conf/all/forwarding"
	}
	text, err := os.ReadFile(file)
	return err != nil || strings.TrimSpace(string(text)) != "0"
}

// describe describes failures that are not reported as such.
func describe(dir string, ns namespace, failures []failure) string {
	var texts []string
	for _, f := range failures {
		texts = append(texts, fmt.Sprintf("%v: %v", f.probe, f.err))
	}
	return fmt.Sprintf("not tested from %s in %s: %s", dir, ns.name(), strings.Join(texts, ", "))
}
