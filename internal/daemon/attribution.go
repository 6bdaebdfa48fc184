// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"golang.org/x/sys/unix"

	"sotto/intercept"
	"sotto/internal/names"
	"sotto/internal/observe"
	"sotto/internal/pathtest"
)

// attribute prepares to find the processes of queries and the names of workloads, if the plan
// says so.
func (d *daemon) attribute() {
	if !d.plan.Attribution {
		return
	}
	d.names = names.New(names.Config{Log: d.log})
	d.hub.Arrived, d.hub.Names, d.hub.Describe = d.names.Arrived, d.names.Name, d.describe
}

// watch makes the kernel publish, until stop is called, the processes of queries and what it
// refuses and drops.
func (d *daemon) watch() (stop func()) {
	if d.handover == nil {
		return func() {} // `sotto serve` has no seal
	}
	stop, err := d.handover.seal.inst.StartTrace()
	if err != nil {
		d.log.Warn("traces show no processes, and not what the kernel drops", "err", err)
		return func() {}
	}
	return stop
}

// showDrop shows what the kernel half of inst refused or dropped to the tracers. Packets of the path
// test are none of a workload.
func showDrop(inst *intercept.Instance, attribution bool, hub *observe.Hub, d *intercept.Drop) {
	out := observe.Drop{
		Time: d.Time, Process: observe.UnknownProcess, Client: d.Src, Nameserver: d.Dst, TCP: isTCP(d.Protocol), Message: d.Message,
		Source: observe.FromGuard, Reason: d.Reason, Text: d.Means, Passed: d.Passed, Lost: d.Lost,
	}
	if d.Hook {
		out.Source = observe.FromHooks
	}
	if d.Cgroup != 0 {
		out.Workload, _ = inst.Workload(d.Cgroup)
	}
	if !attribution {
		out.Process = observe.Process{} // not looked up
	} else if d.Process.PID != 0 {
		out.Process = observe.Process{PID: int(d.Process.PID), UID: int(d.Process.UID), Comm: d.Process.Comm}
	}
	if !pathtest.IsProbe(out.Workload) {
		hub.KernelDropped(out)
	}
}

func isTCP(protocol uint16) bool {
	return protocol == unix.IPPROTO_TCP || protocol == unix.IPPROTO_MPTCP
}

// describe adds to a record what is looked up only for those who read it.
func (d *daemon) describe(r *observe.Record) {
	r.WorkloadName = d.hub.WorkloadName(r.Workload)
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
