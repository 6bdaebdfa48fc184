// SPDX-License-Identifier: Apache-2.0

package config

import (
	"crypto/sha256"
	"crypto/x509"
	"fmt"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"sync"

	"sotto/forwarder/upstream"
	"sotto/forwarder/upstream/address"
	"sotto/forwarder/upstream/order"
	"sotto/forwarder/upstream/proxy"
)

// DefaultGroup is the name of the group that the settings outside of [[group]] describe.
// It answers the queries that no rule matches.
const DefaultGroup = "default"

// reservedNames cannot be names of groups.
var reservedNames = []string{DefaultGroup, UsePlain, UseRefuse, UseNoData, UseNXDomain, UseNull, FallbackFail}

// groupName restricts names to what logs can show and what the cache can store with an
// answer ([forwarder.Route.Scope]).
var groupName = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^[A-Za-z0-9._-]{1,64}$`) })

// Group is an upstream group.
type Group struct {
	Config upstream.Config

	Original *Original // nil: the group has servers

	Network    Network     // the way to the servers, and addresses in answers
	Validation *Validation // nil: answers are not validated

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
	if groups[DefaultGroup], err = s.planGroup(o, "", DefaultGroup, s.GroupSettings); err != nil {
		return nil, err
	}
	for i, g := range s.Groups {
		path := fmt.Sprintf("group[%d]", i)
		_, exists := groups[g.Name]
		switch {
		case g.Name == "":
			return nil, s.invalidf(path, `no name: add one, such as name = "work"`)
		case !groupName().MatchString(g.Name):
			return nil, s.invalidf(path+".name", "%q is not a name for a group: want up to 64 letters, digits, hyphens, dots and underscores", g.Name)
		case slices.Contains(reservedNames, g.Name):
			return nil, s.invalidf(path+".name", "%q is reserved: choose another name for the group", g.Name)
		case exists:
			return nil, s.invalidf(path+".name", "duplicate group %q: rename one of them", g.Name)
		case len(g.Upstream) == 0:
			return nil, s.invalidf(path, `group %q has no servers: add some, such as upstream = ["192.0.2.1#dns.example"]`, g.Name)
		}
		if groups[g.Name], err = s.planGroup(o, path+".", g.Name, s.withDefaults(path, g.GroupSettings)); err != nil {
			return nil, err
		}
	}
	return groups, s.linkOriginals(groups)
}

// withDefaults returns g with the default of each setting that the group at path leaves
// out.
func (s *Settings) withDefaults(path string, g GroupSettings) GroupSettings {
	s.setDefaults(path, reflect.ValueOf(&g).Elem(), reflect.ValueOf(Default().GroupSettings))
	return g
}

// setDefaults sets the settings of a struct, and of those embedded in it, that the text does not
// have at path.
func (s *Settings) setDefaults(path string, to, def reflect.Value) {
	for i := range to.NumField() {
		field := to.Type().Field(i)
		switch {
		case field.Anonymous:
			s.setDefaults(path, to.Field(i), def.Field(i))
		case !s.positions.has(path + "." + field.Tag.Get("toml")):
			to.Field(i).Set(def.Field(i))
		}
	}
}

// planGroup reads the group with that name. The paths of its settings start with prefix.
func (s *Settings) planGroup(o Options, prefix, name string, g GroupSettings) (p Group, err error) {
	if p.Config.Policy, err = order.ParsePolicy(g.Policy); err != nil {
		return p, s.invalid(prefix+"policy", err)
	}
	if g.isOriginal() {
		err = s.planOriginal(o, prefix, name, g, &p)
	} else {
		err = s.planServers(prefix, g, &p)
	}
	if err != nil {
		return p, err
	}
	if p.Config.Profile, err = upstream.ParseProfile(g.Profile); err != nil {
		return p, s.invalid(prefix+"profile", err)
	}
	if !(g.HedgeShare > 0 && g.HedgeShare <= 1) { // also rejects NaN
		return p, s.invalidf(prefix+"hedge-share", "%v is out of range: want more than 0 and at most 1; only the policy hedged sends a query twice", g.HedgeShare)
	}
	p.Config.HedgeShare = g.HedgeShare
	if err := s.planTimeouts(prefix, g.TimeoutSettings, &p.Config); err != nil {
		return p, err
	}
	var sum string
	if p.Config.ConfiguredCAs, p.Config.RootCAs, sum, err = certPools(o, g.CAFile); err != nil {
		return p, s.At(prefix+"ca-file", err)
	}
	identity, err := s.planClientCert(o, prefix, g, &p)
	if err != nil {
		return p, err
	}
	if p.Network, err = s.planNetwork(prefix, g.NetworkSettings); err != nil {
		return p, err
	}
	if err = s.planDNSSEC(o, prefix, g.DNSSECSettings, &p); err != nil {
		return p, err
	}
	if err := s.planSplit(o, prefix, g, &p); err != nil {
		return p, err
	}
	if g.Proxy != "" {
		if p.Config.Proxy, err = proxy.Parse(g.Proxy); err != nil {
			return p, s.invalid(prefix+"proxy", err)
		}
	}
	// This finds errors of the settings together, such as a duplicate server.
	group, err := upstream.New(p.Config)
	if err != nil {
		return p, s.invalid(prefix+"upstream", err)
	}
	p.Key = fmt.Sprintf("%q %q %q %s %s %v %s %s %q %s %s", g.Upstream, g.Bootstrap, g.Pins, g.Policy, g.Profile, g.HedgeShare, sum, identity,
		g.Proxy, g.Split, p.Network.key())
	p.Key += " " + g.TimeoutSettings.key()
	if p.Validation != nil {
		p.Key += " dnssec " + p.Validation.Key
	}
	return p, group.Close()
}

// planServers reads the servers of a group into p.
func (s *Settings) planServers(prefix string, g GroupSettings, p *Group) (err error) {
	pins := make([]upstream.Pin, len(g.Pins))
	for i, text := range g.Pins {
		if pins[i], err = address.ParsePin(text); err != nil {
			return s.invalid(fmt.Sprintf("%spins[%d]", prefix, i), err)
		}
	}
	if len(g.Upstream) == 0 {
		return s.invalidf(prefix+"upstream", "no server: add one, such as quad9, https://dns.example/dns-query or 192.0.2.1#dns.example")
	}
	if p.Config.Servers, err = s.parseServers(prefix+"upstream", g.Upstream); err != nil {
		return err
	}
	for i := range p.Config.Servers {
		p.Config.Servers[i].Pins = pins
	}
	if p.Config.Bootstrap, err = s.parseServers(prefix+"bootstrap", g.Bootstrap); err != nil {
		return err
	}
	if g.Discovery != "" || g.Fallback != "" {
		p.warnings = append(p.warnings, `original-discovery and original-fallback have no effect without upstream = ["original"]`)
	}
	return nil
}

// parseServers parses the texts of the setting at path.
func (s *Settings) parseServers(path string, texts []string) (servers []upstream.Server, err error) {
	for i, text := range texts {
		more, err := address.Parse(text)
		if err != nil {
			return nil, s.invalid(fmt.Sprintf("%s[%d]", path, i), err)
		}
		servers = append(servers, more...)
	}
	return servers, nil
}

// ReadRoots reads the system's certificate authorities if a group has no others, which otherwise its first query does: there are
// some hundred.
func (p *Plan) ReadRoots() {
	for _, g := range p.Groups {
		if g.Config.RootCAs == nil {
			_, _ = x509.SystemCertPool() // crypto/x509 keeps it
			return
		}
	}
}

// certPools returns the certificate authorities in file, a function that returns them with the system's, and a hash of the file's
// contents. Without a file there are no such authorities, and the function is nil, which means the system's.
func certPools(o Options, file string) (own *x509.CertPool, all func() *x509.CertPool, sum string, err error) {
	if file == "" {
		return nil, nil, "", nil
	}
	text, err := o.Read(file)
	if err != nil {
		return nil, nil, "", fmt.Errorf("read certificate authorities: %w", err)
	}
	own = x509.NewCertPool()
	if !own.AppendCertsFromPEM(text) {
		return nil, nil, "", fmt.Errorf("read certificate authorities: %s contains no PEM certificate: add one, or name another file", file)
	}
	all = sync.OnceValue(func() *x509.CertPool {
		pool, err := x509.SystemCertPool()
		if err != nil {
			pool = x509.NewCertPool() // the system has none
		}
		pool.AppendCertsFromPEM(text)
		return pool
	})
	return own, all, fmt.Sprintf("%x", sha256.Sum256(text)), nil
}
