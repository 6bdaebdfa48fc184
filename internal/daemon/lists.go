// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"runtime/debug"
	"strings"
	"time"

	"sotto/forwarder/rules"
	"sotto/forwarder/wire"
	"sotto/internal/config"
	"sotto/internal/lists"
	"sotto/internal/status"
)

// listConfig returns what the updater has to do by the plan in force.
func (d *daemon) listConfig() lists.Config {
	p := d.current()
	var roots *x509.CertPool // nil: the system's
	if of := p.Groups[config.DefaultGroup].Config.RootCAs; of != nil && len(p.Rules.Lists) > 0 {
		roots = of()
	}
	return lists.Config{
		Store: lists.Store{Dir: p.ListDir}, Lists: p.Rules.Lists, Interval: p.ListInterval,
		Client: lists.NewClient(d.resolver.lookupHost(p), d.resolver.groups.control, roots),
	}
}

// applyLists puts the stored lists in force. The rest of the configuration stays as it is.
func (d *daemon) applyLists(ctx context.Context) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	started := time.Now()
	p, err := d.plan.WithLists()
	if err != nil {
		return err
	}
	if err := d.resolver.change(ctx, p); err != nil {
		return err
	}
	d.plan = p
	d.log.Info("lists in force", "rules", p.Rules.Set, "ms", time.Since(started).Milliseconds())
	debug.FreeOSMemory() // the old rules, and the names as text
	return nil
}

// lookupHost returns a function that resolves the host of a list over TLS, by the upstream
// group that the rules choose for queries of no workload. A rule with another action, such as
// a list that blocks this host, does not apply.
func (r *resolver) lookupHost(p config.Plan) lists.Lookup {
	return func(ctx context.Context, host string) (addrs []netip.Addr, err error) {
		var errs []error
		for _, typ := range []uint16{wire.TypeA, wire.TypeAAAA} {
			found, err := r.lookupAddrs(ctx, p, host, typ)
			addrs, errs = append(addrs, found...), append(errs, err)
		}
		if len(addrs) == 0 {
			return nil, errors.Join(errs...)
		}
		return addrs, nil
	}
}

func (r *resolver) lookupAddrs(ctx context.Context, p config.Plan, host string, typ uint16) (addrs []netip.Addr, err error) {
	msg, err := lookup(strings.TrimSuffix(host, ".")+".", typ)
	if err != nil {
		return nil, err
	}
	q, err := wire.ParseQuery(msg)
	if err != nil {
		return nil, err
	}
	use := config.DefaultGroup
	if i := p.Rules.Set.Match(rules.Query{Name: q.Name, Type: typ, RD: true}); i >= 0 {
		if _, ok := p.Groups[p.Rules.Uses[i]]; ok {
			use = p.Rules.Uses[i]
		}
	}
	reply, err := r.groups.exchange(ctx, p.Groups[use].Key, msg)
	if err != nil {
		return nil, err
	}
	if rcode := wire.Rcode(reply); rcode != wire.RcodeSuccess {
		return nil, fmt.Errorf("the upstream answered %s", wire.RcodeName(uint16(rcode)))
	}
	err = wire.EachRecord(reply, func(section int, t uint16, data []byte) bool {
		if addr, ok := netip.AddrFromSlice(data); ok && section == wire.SectionAnswer && t == typ {
			addrs = append(addrs, addr)
		}
		return true
	})
	return addrs, err
}

// handleLists describes the lists.
func (d *daemon) handleLists(w http.ResponseWriter, _ *http.Request) {
	out := []status.List{}
	for _, s := range d.lists.States() {
		out = append(out, status.List{
			URL: s.URL, File: s.File, Names: s.Names, Skipped: s.Skipped,
			Fetched: s.Fetched, Checked: s.Checked, Next: s.Next, Error: s.Error,
		})
	}
	writeJSON(w, out)
}

// handleListUpdate fetches all lists, and answers with their state when they are in force.
func (d *daemon) handleListUpdate(w http.ResponseWriter, r *http.Request) {
	if err := d.lists.Update(r.Context()); err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	d.handleLists(w, r)
}
