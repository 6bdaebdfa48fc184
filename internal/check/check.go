// SPDX-License-Identifier: Apache-2.0

package check

import (
	"context"
	"fmt"
	"os"

	"sotto/intercept"
	"sotto/internal/config"
	"sotto/internal/daemon"
	"sotto/internal/status"
)

// State is the outcome of a check.
type State string

// The outcomes. Only Failed means that Sotto cannot work as configured.
const (
	OK      State = "ok"
	Skipped State = "skipped" // Detail is the reason
	Warning State = "warning"
	Failed  State = "failed"
)

// Result is one line of the report.
type Result struct {
	Name   string `json:"name"`
	State  State  `json:"state"`
	Detail string `json:"detail"`
	Fix    string `json:"fix,omitempty"` // what to do; "" if nothing, or if it is not known
}

// Report has the results of all checks.
type Report struct {
	State   State    `json:"state"` // ok, warning or failed: the worst of all results
	Results []Result `json:"results"`
}

// Options are the inputs of [Run].
type Options struct {
	Daemon daemon.Options // Load reads the configuration
	Query  bool           // send a sealed query

	// Status asks the running Sotto for its status. The error is [control.ErrNotRunning] if none
	// runs.
	Status func(context.Context) (status.Status, error)

	// Client is the start of the command line of a process that calls [Client].
	Client []string
}

// machine has the inputs of the checks, and the findings of earlier ones.
type machine struct {
	Options
	root bool // the process is root

	valid bool // the configuration is valid, and plan is it; else plan has the defaults
	plan  config.Plan
	seal  intercept.Config // of the running Sotto, else as configured

	running    *status.Status // nil if no Sotto runs
	lackCaps   bool           // capabilities are missing
	noCgroup2  bool           // it was not found
	noSeal     string         // why no seal can be created; "" if none is known
	wrongTimes []string       // servers whose certificates are not valid at this time
	path       pathState      // of the sealed query
}

// checks returns all checks in the order in which they run. Later ones use what earlier ones
// found.
func checks() []func(context.Context, *machine) []Result {
	return []func(context.Context, *machine) []Result{
		one(checkConfig), one(checkRunning),
		one(checkCapabilities), one(checkKernel), one(checkCgroup2), one(checkBPFFS),
		one(checkIPv6), one(checkReversePath), one(checkRoutes), one(checkPrograms),
		one(checkResolvConf), one(checkLocalResolvers), one(checkLookupPaths),
		checkUpstreams, one(checkClock), one(checkQuery), one(checkFirewall),
	}
}

// one adapts a check with one result.
func one(f func(context.Context, *machine) Result) func(context.Context, *machine) []Result {
	return func(ctx context.Context, m *machine) []Result { return []Result{f(ctx, m)} }
}

// Run runs all checks, and calls report with each result as soon as it is known. It stops early
// only if ctx ends; its error is that of ctx.
func Run(ctx context.Context, o Options, report func(Result)) (Report, error) {
	m := &machine{Options: o, root: os.Geteuid() == 0}
	r := Report{State: OK, Results: []Result{}}
	for _, check := range checks() {
		if ctx.Err() != nil {
			return r, context.Cause(ctx)
		}
		results := check(ctx, m)
		if ctx.Err() != nil {
			return r, context.Cause(ctx) // they are about the interruption
		}
		for _, result := range results {
			r.add(result)
			report(result)
		}
	}
	return r, nil
}

func (r *Report) add(result Result) {
	r.Results = append(r.Results, result)
	if result.State == Failed || result.State == Warning && r.State == OK {
		r.State = result.State
	}
}

func ok(name, format string, args ...any) Result {
	return Result{Name: name, State: OK, Detail: fmt.Sprintf(format, args...)}
}

func skipped(name, format string, args ...any) Result {
	return Result{Name: name, State: Skipped, Detail: fmt.Sprintf(format, args...)}
}

func needsRoot(name string) Result {
	return Result{Name: name, State: Skipped, Detail: "needs root", Fix: "sudo sotto check"}
}

func needsCapabilities(name string) Result { return skipped(name, "needs the capabilities above") }

func needsCgroup2(name string) Result { return skipped(name, "needs cgroup2") }

func warning(name, fix, format string, args ...any) Result {
	return Result{Name: name, State: Warning, Detail: fmt.Sprintf(format, args...), Fix: fix}
}

func failed(name, fix, format string, args ...any) Result {
	return Result{Name: name, State: Failed, Detail: fmt.Sprintf(format, args...), Fix: fix}
}
