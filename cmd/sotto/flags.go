// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"log/slog"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"sotto/forwarder/upstream"
)

// options are the flags of one call; settings takes them over the file's.
type options struct {
	config string
	check  bool
	given  settings
}

// upstreamFlags adds what every forwarding verb has.
func (o *options) upstreamFlags(fs *pflag.FlagSet) {
	fs.StringArrayVarP(&o.given.Upstream, "upstream", "u", nil,
		"a preset ("+strings.Join(upstream.Presets(), ", ")+") or ADDR[:PORT][#NAME], port 853; again for more (default quad9, cloudflare)")
	fs.StringVar(&o.given.Policy, "policy", "", "how to choose among them: failover, fastest, random or hedged (default failover)")
	fs.StringVar(&o.given.Profile, "profile", "", "strict: only servers that prove who they are; opportunistic: any (default strict)")
	fs.StringVar(&o.given.CAFile, "ca-file", "", "PEM `file` of certificate authorities to trust besides the system's")
	fs.StringArrayVar(&o.given.Pins, "pin", nil, "accept only servers with this key, as `sha256/BASE64`; again for more")
	fs.IntVar(&o.given.CacheMiB, "cache-mib", 0, "memory for cached answers in `MiB` (default 64)")
	fs.StringVar(&o.given.LogLevel, "log-level", "", "debug, info, warn or error")
	fs.BoolVar(&o.given.LogQueries, "log-queries", false, "log every query: who asked whom for what, and what came of it")
}

// guardFlag is for the verbs that seal.
func (o *options) guardFlag(fs *pflag.FlagSet) {
	fs.StringVar(&o.given.Guard, "guard", "", "what becomes of plain queries that no hook on a socket catches: drop, count or off (default drop)")
}

// fileFlags adds what the verbs with a configuration file have.
func (o *options) fileFlags(fs *pflag.FlagSet) {
	o.configFlag(fs)
	fs.BoolVar(&o.check, "check", false, "say whether configuration and flags are in order, and end")
	o.controlFlag(fs)
}

func (o *options) configFlag(fs *pflag.FlagSet) {
	fs.StringVar(&o.config, "config", "", "configuration `file` (default "+defaultConfig+", if it is there)")
}

func (o *options) controlFlag(fs *pflag.FlagSet) {
	fs.StringVar(&o.given.Control, "control", "", "`path` of the socket on which a running Sotto is told things, or off (default for 'sotto run' "+defaultControl+")")
}

// settings is the file with the flags that were given over it.
func (o *options) settings(c *cobra.Command) (settings, error) {
	s, err := loadSettings(o.config)
	if err != nil {
		return s, err
	}
	o.override(c, &s)
	return s, nil
}

// override sets in s what flags were given for.
func (o *options) override(c *cobra.Command, s *settings) {
	for name, set := range map[string]func(){
		"upstream":    func() { s.Upstream = o.given.Upstream },
		"policy":      func() { s.Policy = o.given.Policy },
		"profile":     func() { s.Profile = o.given.Profile },
		"ca-file":     func() { s.CAFile = o.given.CAFile },
		"pin":         func() { s.Pins = o.given.Pins },
		"cache-mib":   func() { s.CacheMiB = o.given.CacheMiB },
		"log-level":   func() { s.LogLevel = o.given.LogLevel },
		"log-queries": func() { s.LogQueries = o.given.LogQueries },
		"control":     func() { s.Control = o.given.Control },
		"listen":      func() { s.Listen = o.given.Listen },
		"cgroup":      func() { s.Cgroups = o.given.Cgroups },
		"exclude":     func() { s.Exclude = o.given.Exclude },
		"guard":       func() { s.Guard = o.given.Guard },
		"on-exit":     func() { s.OnExit = o.given.OnExit },

		"when-replaced": func() { s.WhenReplaced = o.given.WhenReplaced },
	} {
		if c.Flags().Changed(name) {
			set()
			key, renamed := map[string]string{"pin": "pins", "cgroup": "cgroups"}[name]
			if !renamed {
				key = name
			}
			s.places.forget(key)
		}
	}
}

// logger writes to stderr what is at the level or above, which may change.
func (e *env) logger(level slog.Leveler) *slog.Logger {
	return slog.New(slog.NewTextHandler(e.stderr, &slog.HandlerOptions{Level: level}))
}

// needRoot explains what a verb needs root for.
func needRoot(verb string) error {
	if os.Geteuid() != 0 {
		return fmt.Errorf("sotto %s needs root, to load eBPF programs and make a network namespace: sudo sotto %s …", verb, verb)
	}
	return nil
}
