// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"context"
	"time"
)

// kubeletInterval is how often a kubelet that was not found is looked for. It is shorter than a node
// takes to become ready, and reading the command lines of all processes takes milliseconds.
const kubeletInterval = 10 * time.Second

// watchKubelet puts the kubelet's configuration in force when it is known, if it was not when the
// configuration was loaded: Sotto starts before the kubelet. tick says when to look. It returns
// when ctx ends.
func (d *daemon) watchKubelet(ctx context.Context, tick <-chan time.Time) {
	var last string // failure that was logged
	for {
		select {
		case <-tick:
		case <-ctx.Done():
			return
		}
		text := ""
		if err := d.findKubelet(ctx); err != nil {
			text = err.Error()
		}
		if text != "" && text != last && ctx.Err() == nil {
			d.log.Warn("cannot put the kubelet's configuration in force", "err", text)
		}
		last = text
	}
}

// findKubelet looks for the kubelet once, unless everything is known. The rest of the configuration
// stays as it is.
func (d *daemon) findKubelet(ctx context.Context) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	p, changed, err := d.plan.WithKubelet()
	if err != nil {
		return err
	}
	if changed {
		if err := d.resolver.change(ctx, p); err != nil {
			return err
		}
		d.log.Info("the kubelet runs now: its configuration is in force")
	}
	if d.plan.Kubernetes.Pending && !p.Kubernetes.Pending && (changed || !p.Kubernetes.Cluster.Known()) {
		p.Kubernetes.Report(d.log)
	}
	d.plan = p
	return nil
}
