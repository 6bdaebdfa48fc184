// SPDX-License-Identifier: Apache-2.0

package config

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"os"

	"sotto/forwarder/dnssec/anchor"
)

// Values of the setting dnssec.
const (
	DNSSECOff      = "off"
	DNSSECValidate = "validate"
)

// DNSSECSettings describe how the answers of a group are validated.
type DNSSECSettings struct {
	DNSSEC          string   `toml:"dnssec"`
	TrustAnchorFile string   `toml:"trust-anchor-file"`
	NegativeAnchors []string `toml:"negative-trust-anchors"`
	SHA1            bool     `toml:"dnssec-sha1"`
}

// Validation is how the answers of a group are validated.
type Validation struct {
	Anchors *anchor.Set
	SHA1    bool // the algorithms 5 and 7 are accepted

	// Key is the same for two validations of the same settings. It has eight characters.
	Key string
}

// planDNSSEC reads how a group validates into p. The paths of its settings start with prefix.
func (s *Settings) planDNSSEC(o Options, prefix string, g DNSSECSettings, p *Group) error {
	switch g.DNSSEC {
	case DNSSECValidate:
	case "", DNSSECOff:
		if g.TrustAnchorFile != "" || len(g.NegativeAnchors) > 0 || g.SHA1 {
			p.warnings = append(p.warnings, `trust-anchor-file, negative-trust-anchors and dnssec-sha1 have no effect: add dnssec = "validate"`)
		}
		return nil
	default:
		return s.invalidf(prefix+"dnssec", `%q is not a value: want "off" or "validate"`, g.DNSSEC)
	}
	v := &Validation{Anchors: anchor.Root(), SHA1: g.SHA1}
	text := ""
	if g.TrustAnchorFile != "" {
		data, err := o.Read(g.TrustAnchorFile)
		if err != nil {
			return s.At(prefix+"trust-anchor-file", fmt.Errorf("read trust anchors: %w", anchorHint(err)))
		}
		text = string(data)
		v.Anchors = anchor.NewSet()
		if err := v.Anchors.Parse(text); err != nil {
			return s.At(prefix+"trust-anchor-file", fmt.Errorf("read trust anchors: %s: %w", g.TrustAnchorFile, err))
		}
	}
	for i, name := range g.NegativeAnchors {
		n, err := anchor.ParseName(name)
		if err != nil {
			return s.invalid(fmt.Sprintf("%snegative-trust-anchors[%d]", prefix, i), err)
		}
		v.Anchors.AddNegative(n)
	}
	v.Key = fmt.Sprintf("%x", sha256.Sum256(fmt.Appendf(nil, "%q %q %v", text, g.NegativeAnchors, g.SHA1)))[:8]
	p.Validation = v
	return nil
}

// anchorHint adds the fix to the error for a file that does not exist.
func anchorHint(err error) error {
	if errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("%w: remove the setting to use the keys of the root zone that are built in", err)
	}
	return err
}
