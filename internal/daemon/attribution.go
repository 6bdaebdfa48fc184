// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"sotto/intercept"
	"sotto/internal/names"
	"sotto/internal/observe"
)

// attribute prepares to find the processes of queries and the names of workloads, if the plan
// says so.
func (d *daemon) attribute() {
	if !d.plan.Attribution {
		return
	}
	d.names = names.New(names.Config{Log: d.log})
	d.hub.Arrived = d.names.Arrived
	d.hub.Describe, d.hub.Watch = d.describe, d.watch
}

// watch makes the kernel publish the processes of queries until stop is called.
func (d *daemon) watch() (stop func()) {
	if d.handover == nil {
		return func() {} // `sotto serve` does not know processes
	}
	stop, err := d.handover.seal.inst.WatchProcesses()
	if err != nil {
		d.log.Warn("the processes of queries are unknown", "err", err)
		return func() {}
	}
	return stop
}

// describe adds to a record what is looked up only for those who read it.
func (d *daemon) describe(r *observe.Record) {
	r.WorkloadName = d.workloadName(r.Workload)
	if d.handover == nil || !r.Virtual.IsValid() {
		return
	}
	r.Process = observe.UnknownProcess
	p, ok := d.handover.seal.inst.Process(intercept.Arrival{
		Local: r.Virtual, Client: r.Client, TCP: r.Proto == "tcp", ID: r.ID, Time: r.Arrived,
	})
	if ok {
		r.Process = observe.Process{PID: int(p.PID), UID: int(p.UID), Comm: p.Comm}
	}
}

// workloadName returns the name that people know for a workload, or "".
func (d *daemon) workloadName(path string) string {
	if d.names == nil || path == "" || path == observe.Other {
		return ""
	}
	return d.names.Name(path).String()
}
