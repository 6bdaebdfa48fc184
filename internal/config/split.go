// SPDX-License-Identifier: Apache-2.0

package config

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"fmt"

	"sotto/forwarder/upstream"
	"sotto/forwarder/upstream/order"
	"sotto/forwarder/upstream/split"
)

// Values of the setting split.
const (
	SplitOff    = "off"
	SplitByName = "by-name"
	SplitStrict = "by-name-strict"
)

// machineID is the file with the random number of an installation (machine-id(5)).
const machineID = "/etc/machine-id"

// planSplit reads the setting split of a group into p.
func (s *Settings) planSplit(o Options, prefix string, g GroupSettings, p *Group) error {
	switch g.Split {
	case SplitOff, "":
		return nil
	case SplitByName, SplitStrict:
	default:
		return s.invalidf(prefix+"split", "%q: want %q, %q or %q", g.Split, SplitOff, SplitByName, SplitStrict)
	}
	if p.Config.Policy != order.Failover {
		return s.invalidf(prefix+"policy", "%s has no effect with split, because the domain selects the server: remove it", p.Config.Policy)
	}
	key, err := splitKey(o)
	if err != nil {
		p.warnings = append(p.warnings, fmt.Sprintf("split: no random number of this installation (%v): domains are distributed as on every machine without one; "+
			"create it with systemd-machine-id-setup", err))
	}
	p.Config.Split = &upstream.Split{Key: key, Strict: g.Split == SplitStrict}
	return nil
}

// splitKey derives the key from the number of the installation, so that a domain goes to the same
// server after a restart, and others cannot compute the distribution. As machine-id(5) asks, the
// number itself is not used. After an error the key is a constant.
func splitKey(o Options) (split.Key, error) {
	id, err := o.Read(machineID)
	if id = bytes.TrimSpace(id); err == nil && len(id) < 32 {
		err = fmt.Errorf("%s has no ID", machineID)
	}
	if err != nil {
		id = nil
	}
	mac := hmac.New(sha256.New, id)
	mac.Write([]byte("sotto: split by name"))
	return split.Key(mac.Sum(nil)), err
}
