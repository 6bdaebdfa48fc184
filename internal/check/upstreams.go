// SPDX-License-Identifier: Apache-2.0

package check

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"sotto/forwarder/upstream"
	"sotto/forwarder/wire"
	"sotto/internal/config"
)

// serverReport is the outcome of a query to one server.
type serverReport struct {
	group, server string
	err           error  // no answer
	rcode         uint16 // of the answer
	took          time.Duration
	stats         upstream.ServerStats
}

func (r *serverReport) works() bool {
	return r.err == nil && (r.rcode == wire.RcodeSuccess || r.rcode == wire.RcodeNXDomain)
}

// checkUpstreams sends a query to each configured server.
func checkUpstreams(ctx context.Context, m *machine) []Result {
	const name = "upstreams"
	if !m.valid {
		return []Result{skipped(name, "the configuration is invalid")}
	}
	reports := askAll(ctx, m.plan.Groups)
	now := time.Now()
	answers := map[string]bool{} // by group: a server works
	for i := range reports {
		r := &reports[i]
		answers[r.group] = answers[r.group] || r.works()
		var invalid x509.CertificateInvalidError
		if errors.As(r.err, &invalid) && invalid.Reason == x509.Expired {
			m.wrongTimes = append(m.wrongTimes, r.server)
		}
	}
	var out []Result
	for i := range reports {
		out = append(out, judgeServer(&reports[i], answers[reports[i].group], now))
	}
	return append(out, originals(m.plan.Groups)...)
}

// originals names the groups whose servers depend on the nameservers that clients ask.
func originals(groups map[string]config.Group) (out []Result) {
	for _, group := range slices.Sorted(maps.Keys(groups)) {
		if o := groups[group].Original; o != nil {
			other := "fail"
			if o.Fallback != "" {
				other = "go to the group " + o.Fallback
			}
			out = append(out, ok("upstream original of group "+group, "the nameservers that clients ask; queries for those that offer no DNS over TLS %s", other))
		}
	}
	return out
}

// askAll asks the servers of all groups at the same time.
func askAll(ctx context.Context, groups map[string]config.Group) []serverReport {
	var reports []serverReport
	var ask []func(*serverReport)
	for _, name := range slices.Sorted(maps.Keys(groups)) {
		for _, s := range groups[name].Config.Servers {
			cfg := alone(groups[name].Config, s)
			cfg.Control = groups[name].Network.Outbound.Control(nil)
			reports = append(reports, serverReport{group: name, server: s.String()})
			ask = append(ask, func(r *serverReport) { r.ask(ctx, cfg) })
		}
	}
	var wg sync.WaitGroup
	for i := range reports {
		wg.Go(func() { ask[i](&reports[i]) })
	}
	wg.Wait()
	return reports
}

// alone returns the configuration of a group with one server of cfg. If its name has to be
// resolved, the servers that resolve it in the group do so.
func alone(cfg upstream.Config, s upstream.Server) upstream.Config {
	if !s.HasAddr() && len(cfg.Bootstrap) == 0 {
		for _, other := range cfg.Servers {
			if other.HasAddr() {
				cfg.Bootstrap = append(cfg.Bootstrap, other)
			}
		}
	}
	cfg.Servers = []upstream.Server{s}
	return cfg
}

// ask sends one query to the only server of cfg.
func (r *serverReport) ask(ctx context.Context, cfg upstream.Config) {
	g, err := upstream.New(cfg)
	if err != nil {
		r.err = err
		return
	}
	defer func() { r.err = errors.Join(r.err, g.Close()) }()
	query, err := wire.ParseQuery(rootQuery)
	if err != nil {
		r.err = err
		return
	}
	started := time.Now()
	reply, err := g.Exchange(ctx, wire.AppendQuery(nil, &query), started.Add(upstream.DefaultTimeout))
	r.took, r.stats = time.Since(started), g.Stats().Servers[0]
	if r.err = err; err == nil {
		var parsed wire.Reply
		parsed, r.err = wire.ParseReply(reply)
		r.rcode = parsed.Rcode
	}
}

// rootQuery asks for the name servers of the root, which every resolver knows.
var rootQuery = []byte{0, 0, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0, 1}

// judgeServer judges the report of one server. groupWorks is set if a server of its group works:
// then queries are answered.
func judgeServer(r *serverReport, groupWorks bool, now time.Time) Result {
	name := "upstream " + r.server
	if r.group != config.DefaultGroup {
		name += " of group " + r.group
	}
	detail, fix, bad := "", "", Failed
	if groupWorks {
		bad = Warning
	}
	switch {
	case r.err != nil:
		detail, fix = reason(r.err), upstream.Fix(r.err, now)
	case !r.works():
		detail, fix = "it answers "+wire.RcodeName(r.rcode), "use another upstream, or ask its operator to serve this machine"
	case r.stats.Unauthenticated != "":
		bad, detail = Warning, "not authenticated: "+r.stats.Unauthenticated
		fix = `set profile = "strict", and correct what the reason names`
	default:
		detail = fmt.Sprintf("answered in %s", r.took.Round(100*time.Microsecond))
		if r.stats.Using != "" {
			detail += " over " + r.stats.Using
		}
		if len(r.stats.Addresses) > 0 {
			detail += ", addresses " + strings.Join(r.stats.Addresses, " and ")
		}
		if !r.stats.CertExpiry.IsZero() {
			detail += ", certificate valid until " + r.stats.CertExpiry.UTC().Format(time.DateOnly)
		}
		return ok(name, "%s", detail)
	}
	return Result{Name: name, State: bad, Detail: detail, Fix: fix}
}

// reason is the reason of an error of an exchange, without the server.
func reason(err error) string {
	var e *upstream.Error
	if errors.As(err, &e) {
		return e.Reason
	}
	return err.Error()
}
