// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"context"
	"errors"
	"fmt"

	"sotto/internal/config"
	"sotto/internal/service"
)

// setting is the value of a setting that only a restart changes.
type setting struct {
	key   string
	value any
}

// fixedSettings returns the settings of both `run` and `serve` that a reload cannot change.
func fixedSettings(p config.Plan) []setting {
	fixed := []setting{
		{"control", p.Control}, {"control-group", p.ControlGroup}, {"metrics", p.Metrics}, {"log-queries", p.LogQueries},
		{"query-log", p.QueryLog.File}, {"query-log-sample", p.QueryLog.Sample}, {"query-log-hash-names", p.QueryLog.HashNames},
		{"dnstap-file", p.Dnstap.File}, {"dnstap-socket", p.Dnstap.Socket}, {"dnstap-identity", p.Dnstap.Identity},
		{"dnstap-messages", []bool{p.Dnstap.Client, p.Dnstap.Forwarder}}, {"dnstap-tls", p.Dnstap.TLSAsTCP},
		{"max-queries", p.MaxQueries}, {"max-waiting", p.MaxWaiting}, {"max-relays", p.MaxRelays}, {"max-tcp", p.MaxTCP},
		{"cache-mib", p.Cache.MaxBytes == 0}, {"drain", p.Drain},
	}
	return append(fixed, sharedSettings(p.Shared)...)
}

// sharedSettings returns the settings of the shared cache. Without one the others do not matter.
func sharedSettings(p *config.Shared) []setting {
	if p == nil {
		p = &config.Shared{}
	}
	return []setting{
		{"shared-cache", []any{p.Address, p.Username, p.Database, p.TLS != nil}},
		{"shared-cache-password-file", p.Password}, {"shared-cache-secret-file", p.Secret}, {"shared-cache-ca-file", p.CASum},
		{"shared-cache-timeout", p.Timeout}, {"shared-cache-prefix", p.Prefix}, {"shared-cache-max-answer", p.MaxAnswer},
	}
}

// changedSetting returns the key of the first setting that differs, or "".
func changedSetting(old, now []setting) string {
	for i := range now {
		if fmt.Sprint(now[i].value) != fmt.Sprint(old[i].value) {
			return now[i].key
		}
	}
	return ""
}

// reload puts the configuration in force as it is now. After an error the old one stays in
// force as a whole. In any case, files that were rotated are reopened first.
func (d *daemon) reload(ctx context.Context) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	defer d.lists.Wake()
	reopened := d.outputs.reopen(ctx)
	service.Notify(d.NotifySocket, service.Reloading())
	defer service.Notify(d.NotifySocket, service.Ready)
	p, err := d.tryReload(ctx)
	if err != nil {
		d.log.Error("reload failed: the old configuration stays in force", "err", err)
		return errors.Join(err, reopened)
	}
	d.plan = p
	d.level.Set(p.Level)
	p.Warn(d.log)
	d.log.Info("reloaded", "groups", p.GroupNames(), "rules", len(p.Rules.Uses))
	return reopened
}

// tryReload loads the configuration, checks that no fixed setting changed, and applies it to
// the resolver.
func (d *daemon) tryReload(ctx context.Context) (config.Plan, error) {
	s, p, err := d.Load()
	if err != nil {
		return p, err
	}
	old, now := append(fixedSettings(d.plan), d.fixed(d.plan)...), append(fixedSettings(p), d.fixed(p)...)
	if key := changedSetting(old, now); key != "" {
		return p, s.At(key, errors.New("it changed, and a reload cannot change it: restart Sotto, or restore the old value"))
	}
	return p, d.resolver.change(ctx, p)
}
