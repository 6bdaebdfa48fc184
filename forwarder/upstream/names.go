// SPDX-License-Identifier: Apache-2.0

package upstream

import (
	"context"
	"fmt"
	"slices"
	"time"

	"sotto/forwarder/upstream/bootstrap"
	"sotto/forwarder/upstream/transport"
	"sotto/forwarder/wire"
)

// addEndpoints makes the endpoints of the group's servers and of those that resolve names.
func (g *Group) addEndpoints() error {
	for _, s := range g.cfg.Bootstrap {
		// They may be another operator's: what authenticates this machine to the group's
		// servers does not concern them.
		cfg := g.cfg.transport(s, nil)
		cfg.ClientCert = nil
		e, err := newEndpoint(g, cfg)
		if err != nil {
			return err
		}
		g.bootstrap = append(g.bootstrap, e)
	}
	g.resolvers = g.bootstrap
	for _, s := range g.cfg.Servers {
		e, err := newEndpoint(g, g.cfg.transport(s, nil))
		if err != nil {
			return err
		}
		g.endpoints = append(g.endpoints, e)
		if s.HasAddr() && len(g.bootstrap) == 0 {
			g.resolvers = append(g.resolvers, e)
		}
	}
	return nil
}

// all returns the endpoints of the group's servers and those of [Config.Bootstrap].
func (g *Group) all() []*endpoint { return slices.Concat(g.endpoints, g.bootstrap) }

// newName returns what resolves the name of a server.
func (g *Group) newName(s Server) *bootstrap.Name {
	return bootstrap.New(bootstrap.Config{
		Name: s.Name, Ask: g.askResolvers, Spawn: g.spawn, Timeout: g.cfg.Timeout, Log: g.log,
	})
}

// askResolvers sends a query for the name of a server to servers whose address is known, the
// healthy ones first, until one has an answer.
func (g *Group) askResolvers(ctx context.Context, query []byte) ([]byte, error) {
	w := transport.NewTimer()
	defer w.Stop()
	var errs []error
	for _, e := range g.orderedResolvers() {
		started := time.Now()
		reply, err := e.ask(ctx, query, started, started.Add(g.cfg.AttemptTimeout), w)
		if err == nil && wire.IsAnswer(wire.Rcode(reply)) {
			return reply, nil
		}
		if err == nil {
			err = fmt.Errorf("%s sent an error", e.server)
		} else {
			err = transport.NewError(e.server, time.Since(started), err)
		}
		errs = append(errs, err)
		if ctx.Err() != nil {
			break
		}
	}
	return nil, errs[0]
}

// orderedResolvers returns the servers that resolve names, at least one, the healthy ones first. It
// reads the health of each once, because that can change at any time.
func (g *Group) orderedResolvers() []*endpoint {
	var healthy, others []*endpoint
	for _, e := range g.resolvers {
		if c := e.candidate(); c.Healthy() {
			healthy = append(healthy, e)
		} else {
			others = append(others, e)
		}
	}
	return append(healthy, others...)
}

// checkNames returns an error if a server's name cannot be resolved.
func checkNames(cfg *Config) error {
	for _, s := range cfg.Bootstrap {
		if !s.HasAddr() {
			return fmt.Errorf("the bootstrap server %s has no address: write it as ADDRESS#%s", s, s.Name)
		}
	}
	if len(cfg.Bootstrap) > 0 || slices.ContainsFunc(cfg.Servers, Server.HasAddr) {
		return nil
	}
	return fmt.Errorf("no server has an address, so that %s cannot be resolved: add its address (%s://%s#ADDRESS), or a server that resolves it, such as bootstrap = [\"quad9\"]",
		cfg.Servers[0].Name, cfg.Servers[0].Protocol.Scheme(), cfg.Servers[0].Name)
}
