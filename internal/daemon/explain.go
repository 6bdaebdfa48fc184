// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"net/http"
	"net/netip"
	"strings"
	"time"

	"sotto/forwarder"
	"sotto/forwarder/cache"
	"sotto/forwarder/dnssec/record"
	"sotto/forwarder/rules"
	"sotto/forwarder/wire"
	"sotto/internal/config"
	"sotto/internal/observe"
	"sotto/internal/status"
)

// handleExplain describes what would happen to a query with the given name and type, from a
// workload, to a nameserver.
func (d *daemon) handleExplain(w http.ResponseWriter, r *http.Request) {
	e, err := d.explain(r.FormValue("name"), r.FormValue("type"), r.FormValue("workload"), r.FormValue("nameserver"))
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	writeJSON(w, e)
}

func (d *daemon) explain(name, typ, workload, nameserver string) (out status.Explanation, err error) {
	if typ == "" {
		typ = "A"
	}
	t, ok := wire.ParseType(typ)
	if !ok {
		return out, fmt.Errorf("unknown type %q: want a mnemonic such as AAAA, or TYPE65280", typ)
	}
	name = strings.TrimSuffix(name, ".") + "."
	msg, err := lookup(name, t)
	if err != nil {
		return out, err
	}
	if workload, err = d.findWorkload(workload); err != nil {
		return out, err
	}
	origin := forwarder.Origin{Workload: workload}
	if nameserver != "" {
		if origin.Addr, err = parseServer(nameserver); err != nil {
			return out, err
		}
	}
	e, err := d.resolver.Explain(msg, origin)
	if err != nil {
		return out, err
	}
	out = status.Explanation{
		Name: name, Type: wire.TypeName(t), Workload: workload, WorkloadName: d.hub.WorkloadName(workload), Nameserver: nameserver,
		Rule: e.Route.Rule, Builtin: e.Route.Builtin, Action: e.Route.Action.String(), Reason: e.Reason,
	}
	if pod := d.resolver.pods.Pod(workload); pod != nil {
		out.Pod = podText(pod)
	}
	p := d.current()
	if out.Entry, out.Source, err = p.FindEntry(e.Route.Rule, msg[wire.HeaderLen:len(msg)-4]); err != nil {
		out.SourceError = err.Error()
	}
	if e.Final {
		out.Rcode = wire.RcodeName(e.Rcode)
		return out, nil
	}
	if e.Route.Action == forwarder.Forward {
		d.explainForward(&out, &e, msg[wire.HeaderLen:len(msg)-4], origin.Addr)
	}
	return out, nil
}

// findWorkload returns the cgroup path of a workload with a name, which may be a path. Of several
// with the same name it is the one with the most queries.
func (d *daemon) findWorkload(text string) (path string, err error) {
	if text == "" || strings.HasPrefix(text, "/") {
		return text, nil
	}
	for _, w := range d.hub.Workloads() {
		if observe.Selects(text, w.Name, d.hub.WorkloadName(w.Name)) {
			return w.Name, nil
		}
	}
	return "", fmt.Errorf("workload is %q: no workload with this name has sent a query; use a name that 'sotto status' shows, or the path of its cgroup, such as /system.slice/app.service", text)
}

// podText describes what is known about a pod.
func podText(p *rules.Pod) string {
	name := p.Name
	if name == "" {
		name = "not known"
	}
	switch {
	case !p.LabelsKnown:
		return name + ", labels not known"
	case p.OptedOut:
		return name + ", opted out of the seal"
	}
	return name
}

// lookup returns the query of a stub resolver.
func lookup(name string, typ uint16) ([]byte, error) {
	msg := make([]byte, wire.HeaderLen)
	msg[2], msg[5] = 1, 1 // RD, one question
	msg, err := wire.AppendParsed(msg, name)
	if err != nil {
		return nil, err
	}
	msg = binary.BigEndian.AppendUint16(msg, typ)
	return binary.BigEndian.AppendUint16(msg, wire.ClassIN), nil
}

// explainForward adds the upstream group, and what the cache has.
func (d *daemon) explainForward(out *status.Explanation, e *forwarder.Explanation, name []byte, nameserver netip.AddrPort) {
	p := d.current()
	out.Group = config.DefaultGroup
	if e.Route.Rule > 0 {
		out.Group = p.Rules.Uses[e.Route.Rule-1]
	}
	out.Servers = d.resolver.groups.order(p.Groups[out.Group].Key, name)
	out.Policy = policyName(p.Groups[out.Group])
	if n, ok := d.resolver.groups.nameserver(p.Groups[out.Group].Key, nameserver); ok {
		out.Original = &n
		out.Fallback = p.Groups[out.Group].Original.Fallback
	}
	out.DNSSEC = validationText(p.Groups[out.Group].Validation, name)
	out.Cache, out.CacheDO = cachedText(e.Cached), cachedText(e.CachedDO)
}

func cachedText(c forwarder.Cached) string {
	switch c.State {
	case cache.Fresh:
		return fmt.Sprintf("%s, fresh for %d s", wire.RcodeName(c.Rcode), c.TTL)
	case cache.Stale:
		return wire.RcodeName(c.Rcode) + ", expired: used only if the upstreams do not answer"
	}
	if f := c.Failure; f != nil {
		text := fmt.Sprintf("nothing; %s of a failed query for another %v", wire.RcodeName(f.Rcode), c.Left.Round(100*time.Millisecond))
		for _, d := range f.EDE {
			text += ": " + cmp.Or(d.Text, fmt.Sprintf("extended error %d", d.Code))
		}
		return text
	}
	return "nothing"
}

// validationText describes whether the answers with that name are validated in a group; "": the group
// does not validate.
func validationText(v *config.Validation, name []byte) string {
	if v == nil {
		return ""
	}
	zone, ok := v.Anchors.Closest(record.FromWire(name))
	if !ok {
		return "not validated: no trust anchor, or a negative one"
	}
	return "validated, with the trust anchor of " + zone.String()
}

// parseServer parses the address of a nameserver, with or without a port.
func parseServer(s string) (netip.AddrPort, error) {
	if at, err := netip.ParseAddrPort(s); err == nil {
		return at, nil
	}
	addr, err := netip.ParseAddr(strings.Trim(s, "[]"))
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("nameserver is %q: want an address, such as 192.0.2.1 or [2001:db8::1]:53", s)
	}
	return netip.AddrPortFrom(addr, listenPort), nil
}
