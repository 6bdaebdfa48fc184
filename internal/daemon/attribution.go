// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"sotto/internal/names"
	"sotto/internal/observe"
)

// attribute prepares to find the names of workloads, if the plan says so.
func (d *daemon) attribute() {
	if !d.plan.Attribution {
		return
	}
	d.names = names.New(names.Config{Log: d.log})
	d.hub.Arrived = d.names.Arrived
	d.hub.Describe = d.describe
}

// describe adds to a record what is looked up only for those who read it.
func (d *daemon) describe(r *observe.Record) { r.WorkloadName = d.workloadName(r.Workload) }

// workloadName returns the name that people know for a workload, or "".
func (d *daemon) workloadName(path string) string {
	if d.names == nil || path == "" || path == observe.Other {
		return ""
	}
	return d.names.Name(path).String()
}
