// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"log/slog"
	"os"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// options are the flags of one call; settings takes them over the file's.
type options struct {
	config string
	given  settings
}

// upstreamFlags adds what every forwarding verb has.
func (o *options) upstreamFlags(fs *pflag.FlagSet) {
	fs.StringArrayVarP(&o.given.Upstream, "upstream", "u", nil,
		"a preset (quad9, cloudflare, google) or ADDR[:PORT][#NAME], port 853; again for more, asked in order (default quad9, cloudflare)")
	fs.StringVar(&o.given.CAFile, "ca-file", "", "PEM `file` of certificate authorities to trust besides the system's")
	fs.StringArrayVar(&o.given.Pins, "pin", nil, "accept only servers with this key, as `sha256/BASE64`; again for more")
	fs.IntVar(&o.given.CacheMiB, "cache-mib", 0, "memory for cached answers in `MiB` (default 64)")
	fs.StringVar(&o.given.LogLevel, "log-level", "", "debug, info, warn or error")
	fs.BoolVar(&o.given.LogQueries, "log-queries", false, "log every query: who asked whom for what, and what came of it")
}

func (o *options) configFlag(fs *pflag.FlagSet) {
	fs.StringVar(&o.config, "config", "", "configuration `file` (default "+defaultConfig+", if it is there)")
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
		"ca-file":     func() { s.CAFile = o.given.CAFile },
		"pin":         func() { s.Pins = o.given.Pins },
		"cache-mib":   func() { s.CacheMiB = o.given.CacheMiB },
		"log-level":   func() { s.LogLevel = o.given.LogLevel },
		"log-queries": func() { s.LogQueries = o.given.LogQueries },
		"listen":      func() { s.Listen = o.given.Listen },
		"cgroup":      func() { s.Cgroups = o.given.Cgroups },
		"exclude":     func() { s.Exclude = o.given.Exclude },
	} {
		if c.Flags().Changed(name) {
			set()
		}
	}
}

// logger writes to stderr at the level that s names.
func (e *env) logger(s settings) (*slog.Logger, error) {
	var level slog.Level
	if err := level.UnmarshalText([]byte(s.LogLevel)); err != nil {
		return nil, usagef("log level %q: want debug, info, warn or error", s.LogLevel)
	}
	return slog.New(slog.NewTextHandler(e.stderr, &slog.HandlerOptions{Level: level})), nil
}

// needRoot explains what a verb needs root for.
func needRoot(verb string) error {
	if os.Geteuid() != 0 {
		return fmt.Errorf("sotto %s needs root, to load eBPF programs and make a network namespace: sudo sotto %s …", verb, verb)
	}
	return nil
}
