// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"encoding/binary"
	"fmt"
	"net/http"
	"net/netip"
	"strings"

	"sotto/forwarder"
	"sotto/forwarder/cache"
	"sotto/forwarder/upstream"
	"sotto/forwarder/wire"
	"sotto/internal/config"
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
		Name: name, Type: wire.TypeName(t), Workload: workload, Nameserver: nameserver,
		Rule: e.Route.Rule, Action: e.Route.Action.String(), Reason: e.Reason,
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
		d.explainForward(&out, &e)
	}
	return out, nil
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
func (d *daemon) explainForward(out *status.Explanation, e *forwarder.Explanation) {
	out.Group = e.Route.Scope
	if out.Group == "" {
		out.Group = config.DefaultGroup
	}
	p := d.current()
	for _, s := range d.resolver.groups.stats(p.Groups[out.Group].Key).Servers {
		out.Servers = append(out.Servers, s.Server)
	}
	out.Policy = string(p.Groups[out.Group].Config.Policy)
	if out.Policy == "" {
		out.Policy = string(upstream.Failover)
	}
	out.Cache, out.CacheDO = cachedText(e.Cached), cachedText(e.CachedDO)
}

func cachedText(c forwarder.Cached) string {
	switch c.State {
	case cache.Fresh:
		return fmt.Sprintf("%s, fresh for %d s", wire.RcodeName(c.Rcode), c.TTL)
	case cache.Stale:
		return wire.RcodeName(c.Rcode) + ", expired: used only if the upstreams do not answer"
	}
	return "nothing"
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
