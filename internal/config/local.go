// SPDX-License-Identifier: Apache-2.0

package config

import (
	"fmt"

	"sotto/forwarder/localnames"
	"sotto/intercept"
)

// Values of local-resolvers.
const (
	LocalAuto     = "auto"
	LocalKeep     = "keep"
	LocalRedirect = "redirect"
)

// LocalPlan is how queries to nameservers on this machine are treated.
type LocalPlan struct {
	Resolvers string          // [LocalAuto], [LocalKeep] or [LocalRedirect]
	Names     *localnames.Set // names that only those nameservers know
}

// Mode returns whether local resolvers are kept or redirected. whole is set if the whole host
// is sealed.
func (p LocalPlan) Mode(whole bool) intercept.LocalMode {
	if p.Resolvers == LocalKeep || p.Resolvers == LocalAuto && whole {
		return intercept.LocalKeep
	}
	return intercept.LocalRedirect
}

func (s *Settings) planLocal(p *Plan) error {
	switch p.Local.Resolvers = s.LocalResolvers; p.Local.Resolvers {
	case LocalAuto, LocalKeep, LocalRedirect:
	default:
		return s.invalidf("local-resolvers", "unknown value %q: want %s, %s or %s", s.LocalResolvers, LocalAuto, LocalKeep, LocalRedirect)
	}
	for i, name := range s.LocalNames {
		if _, err := localnames.New([]string{name}); err != nil {
			return s.invalid(fmt.Sprintf("local-names[%d]", i), err)
		}
	}
	var err error
	if p.Local.Names, err = localnames.New(s.LocalNames); err != nil {
		return s.invalid("local-names", err)
	}
	return nil
}
