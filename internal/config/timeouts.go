// SPDX-License-Identifier: Apache-2.0

package config

import (
	"fmt"
	"time"

	"sotto/forwarder/upstream"
)

// TimeoutSettings are the settings of a group about how long its servers are waited for.
type TimeoutSettings struct {
	QueryTimeout   string `toml:"timeout"`
	AttemptTimeout string `toml:"attempt-timeout"`
	SilentTimeout  string `toml:"silent-timeout"`
}

const (
	// maxTimeout is longer than any client waits.
	maxTimeout = 30 * time.Second

	// minTimeout is enough for a connection to a distant server and a reply.
	minTimeout = 500 * time.Millisecond

	// minAttempt is a usual time for a name that is not cached.
	minAttempt = 100 * time.Millisecond
)

func defaultTimeouts() TimeoutSettings {
	return TimeoutSettings{QueryTimeout: "3.5s", AttemptTimeout: "1.5s", SilentTimeout: "2s"}
}

// planTimeouts reads the timeouts of a group. The paths of its settings start with prefix. A
// default that is longer than the timeout that is set is reduced to that.
func (s *Settings) planTimeouts(prefix string, t TimeoutSettings, cfg *upstream.Config) (err error) {
	if cfg.Timeout, err = s.duration(prefix+"timeout", t.QueryTimeout, minTimeout, maxTimeout); err != nil {
		return err
	}
	def := defaultTimeouts()
	for _, v := range []struct {
		key, text, def string
		to             *time.Duration
	}{
		{"attempt-timeout", t.AttemptTimeout, def.AttemptTimeout, &cfg.AttemptTimeout},
		{"silent-timeout", t.SilentTimeout, def.SilentTimeout, &cfg.SilentTimeout},
	} {
		if *v.to, err = s.duration(prefix+v.key, v.text, minAttempt, maxTimeout); err != nil {
			return err
		}
		if *v.to > cfg.Timeout && v.text != v.def {
			return s.invalidf(prefix+v.key, "it is %s, longer than timeout (%s): want it no longer", v.text, t.QueryTimeout)
		}
		*v.to = min(*v.to, cfg.Timeout)
	}
	return nil
}

// key returns what distinguishes groups, for [Group.Key].
func (t TimeoutSettings) key() string {
	return fmt.Sprintf("%s %s %s", t.QueryTimeout, t.AttemptTimeout, t.SilentTimeout)
}
