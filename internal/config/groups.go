// SPDX-License-Identifier: Apache-2.0

package config

import (
	"crypto/sha256"
	"crypto/x509"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"sotto/forwarder/upstream"
)

// DefaultGroup is the name of the group that the settings outside of [[group]] describe.
// It answers the queries that no rule matches.
const DefaultGroup = "default"

// reservedNames cannot be names of groups.
var reservedNames = []string{DefaultGroup, UsePlain, UseRefuse, UseNoData, UseNXDomain, UseNull}

// groupName restricts names to what logs can show and what the cache can store with an
// answer ([forwarder.Route.Scope]).
var groupName = regexp.MustCompile(`^[A-Za-z0-9._-]{1,64}$`)

// Group is an upstream group.
type Group struct {
	Config upstream.Config

	// Key is the same for two groups of the same configuration.
	Key string

	warnings []string
}

// GroupNames lists the names of the groups, sorted.
func (p *Plan) GroupNames() string { return groupNames(p.Groups) }

func groupNames(groups map[string]Group) string {
	var names []string
	for name := range groups {
		names = append(names, name)
	}
	slices.Sort(names)
	return strings.Join(names, ", ")
}

// planGroups reads the default group and the named ones.
func (s *Settings) planGroups(o Options) (map[string]Group, error) {
	groups := map[string]Group{}
	var err error
	if groups[DefaultGroup], err = s.planGroup(o, "", s.GroupSettings); err != nil {
		return nil, err
	}
	for i, g := range s.Groups {
		path := fmt.Sprintf("group[%d]", i)
		_, exists := groups[g.Name]
		switch {
		case g.Name == "":
			return nil, s.invalidf(path, `no name: add one, such as name = "work"`)
		case !groupName.MatchString(g.Name):
			return nil, s.invalidf(path+".name", "%q is not a name for a group: want up to 64 letters, digits, hyphens, dots and underscores", g.Name)
		case slices.Contains(reservedNames, g.Name):
			return nil, s.invalidf(path+".name", "%q is reserved: choose another name for the group", g.Name)
		case exists:
			return nil, s.invalidf(path+".name", "duplicate group %q: rename one of them", g.Name)
		case len(g.Upstream) == 0:
			return nil, s.invalidf(path, `group %q has no servers: add some, such as upstream = ["192.0.2.1#dns.example"]`, g.Name)
		}
		if groups[g.Name], err = s.planGroup(o, path+".", s.withDefaults(path, g.GroupSettings)); err != nil {
			return nil, err
		}
	}
	return groups, nil
}

// withDefaults returns g with the default of each setting that the group at path leaves
// out.
func (s *Settings) withDefaults(path string, g GroupSettings) GroupSettings {
	def := Default().GroupSettings
	if !s.positions.has(path + ".policy") {
		g.Policy = def.Policy
	}
	if !s.positions.has(path + ".profile") {
		g.Profile = def.Profile
	}
	if !s.positions.has(path + ".hedge-share") {
		g.HedgeShare = def.HedgeShare
	}
	return g
}

// planGroup reads one group. The paths of its settings start with prefix.
func (s *Settings) planGroup(o Options, prefix string, g GroupSettings) (p Group, err error) {
	pins := make([]upstream.Pin, len(g.Pins))
	for i, text := range g.Pins {
		if pins[i], err = upstream.ParsePin(text); err != nil {
			return p, s.invalid(fmt.Sprintf("%spins[%d]", prefix, i), err)
		}
	}
	if len(g.Upstream) == 0 {
		return p, s.invalidf(prefix+"upstream", "no server: add one, such as quad9 or 192.0.2.1#dns.example")
	}
	for i, text := range g.Upstream {
		servers, err := upstream.ParseServer(text)
		if err != nil {
			return p, s.invalid(fmt.Sprintf("%supstream[%d]", prefix, i), err)
		}
		for i := range servers {
			servers[i].Pins = pins
		}
		p.Config.Servers = append(p.Config.Servers, servers...)
	}
	if p.Config.Policy, err = upstream.ParsePolicy(g.Policy); err != nil {
		return p, s.invalid(prefix+"policy", err)
	}
	if p.Config.Profile, err = upstream.ParseProfile(g.Profile); err != nil {
		return p, s.invalid(prefix+"profile", err)
	}
	if !(g.HedgeShare > 0 && g.HedgeShare <= 1) { // also rejects NaN
		return p, s.invalidf(prefix+"hedge-share", "%v is out of range: want more than 0 and at most 1; only the policy hedged sends a query twice", g.HedgeShare)
	}
	p.Config.HedgeShare = g.HedgeShare
	var sum string
	if p.Config.RootCAs, sum, err = certPool(o, g.CAFile); err != nil {
		return p, s.At(prefix+"ca-file", err)
	}
	identity, err := s.planClientCert(o, prefix, g, &p)
	if err != nil {
		return p, err
	}
	// This finds errors of the settings together, such as a duplicate server.
	group, err := upstream.New(p.Config)
	if err != nil {
		return p, s.invalid(prefix+"upstream", err)
	}
	p.Key = fmt.Sprintf("%q %q %s %s %v %s %s", g.Upstream, g.Pins, g.Policy, g.Profile, g.HedgeShare, sum, identity)
	return p, group.Close()
}

// certPool returns the system's certificate authorities with those in file, and a hash of
// the file's contents. The pool is nil, which means the system's, if file is empty.
func certPool(o Options, file string) (pool *x509.CertPool, sum string, err error) {
	if file == "" {
		return nil, "", nil
	}
	text, err := o.Read(file)
	if err != nil {
		return nil, "", fmt.Errorf("read certificate authorities: %w", err)
	}
	if pool, err = x509.SystemCertPool(); err != nil {
		pool = x509.NewCertPool() // the system has none
	}
	if !pool.AppendCertsFromPEM(text) {
		return nil, "", fmt.Errorf("read certificate authorities: %s contains no PEM certificate: add one, or name another file", file)
	}
	return pool, fmt.Sprintf("%x", sha256.Sum256(text)), nil
}
