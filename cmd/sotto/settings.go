// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"io/fs"
	"strings"

	"sotto/forwarder/upstream"
)

// defaultConfig is read by run and serve where --config names nothing else; it
// need not be there.
const defaultConfig = "/etc/sotto/sotto.toml"

// settings are what the configuration file says, and flags say over it, as
// texts and numbers that nobody has looked at yet: [settings.plan] does. The
// commented reference is docs/sotto.toml.
type settings struct {
	groupSettings // of the group "default"

	Groups []groupBlock `toml:"group"`
	Rules  []ruleBlock  `toml:"rule"`

	CacheMiB       int    `toml:"cache-mib"`
	MinTTL         string `toml:"min-ttl"`
	MaxTTL         string `toml:"max-ttl"`
	MaxNegativeTTL string `toml:"max-negative-ttl"`
	ServeStale     string `toml:"serve-stale"`
	Prefetch       bool   `toml:"prefetch"`
	CacheFile      string `toml:"cache-file"`

	MaxQueries int `toml:"max-queries"`
	MaxWaiting int `toml:"max-waiting"`
	MaxTCP     int `toml:"max-tcp"`

	LogQueries bool   `toml:"log-queries"`
	LogLevel   string `toml:"log-level"`
	Control    string `toml:"control"`

	Listen []string `toml:"listen"`

	Cgroups []string `toml:"cgroups"`
	Exclude []string `toml:"exclude"`
	Ports   []int    `toml:"ports"`
	Prefix4 string   `toml:"prefix4"`
	Prefix6 string   `toml:"prefix6"`
	Guard   string   `toml:"guard"`
	OnExit  string   `toml:"on-exit"`

	WhenReplaced string `toml:"when-replaced"`

	file   string // what was read, for errors; "": nothing was
	places places // of what comes from the file
}

// groupSettings describe servers and how to choose among them.
type groupSettings struct {
	Upstream   []string `toml:"upstream"`
	Policy     string   `toml:"policy"`
	Profile    string   `toml:"profile"`
	HedgeShare float64  `toml:"hedge-share"`
	CAFile     string   `toml:"ca-file"`
	Pins       []string `toml:"pins"`
}

// groupBlock is one [[group]].
type groupBlock struct {
	Name string `toml:"name"`
	groupSettings
}

// ruleBlock is one [[rule]].
type ruleBlock struct {
	Workload   oneOrMore `toml:"workload"`
	Name       oneOrMore `toml:"name"`
	NamesFile  oneOrMore `toml:"names-file"`
	Nameserver oneOrMore `toml:"nameserver"`
	Type       oneOrMore `toml:"type"`
	Use        string    `toml:"use"`
}

// defaultSettings are Sotto's own: two operators that share no infrastructure,
// by address and name, the second for when the first fails.
func defaultSettings() settings {
	return settings{
		groupSettings:  groupSettings{Upstream: []string{"quad9", "cloudflare"}, Policy: "failover", Profile: "strict", HedgeShare: upstream.DefaultHedgeShare},
		CacheMiB:       64,
		MinTTL:         "0s",
		MaxTTL:         "24h",
		MaxNegativeTTL: "1h",
		ServeStale:     "24h",
		Prefetch:       true,
		MaxQueries:     8192,
		MaxWaiting:     65536,
		MaxTCP:         4096,
		LogLevel:       "info",
		Listen:         []string{"127.0.0.1:53"},
		Ports:          []int{53},
		Prefix4:        "198.19.0.0/16",
		Prefix6:        "fd73:6f74:746f::/64",
		Guard:          "drop",
		OnExit:         exitStrict,
		WhenReplaced:   replacedExit,
	}
}

// loadSettings reads the file at path over the defaults. An empty path means the
// default place, which may be missing.
func loadSettings(path string) (settings, error) {
	s := defaultSettings()
	must := path != ""
	if !must {
		path = defaultConfig
	}
	text, err := readAtMost(path, maxConfig)
	if errors.Is(err, fs.ErrNotExist) && !must {
		return s, nil
	}
	if err != nil {
		return s, fmt.Errorf("read the configuration (--config): %w", err)
	}
	return s, s.decode(path, text)
}

// decode reads the text of a file over s.
func (s *settings) decode(file string, text []byte) (err error) {
	s.file = file
	if s.places, err = decode(text, s); err != nil {
		return fmt.Errorf("%s:%w", file, err)
	}
	return nil
}

// at says where the setting at path stands, if that is in the file.
func (s *settings) at(path string, err error) error {
	name := path[strings.LastIndexByte(path, '.')+1:]
	name, _, _ = strings.Cut(name, "[")
	if line, column, ok := s.places.of(path); ok {
		return fmt.Errorf("%s:%d:%d: %s: %w", s.file, line, column, name, err)
	}
	return fmt.Errorf("%s: %w", name, err)
}

// wrong says what is the matter with the setting at path: a mistake in the file,
// or in how Sotto was called.
func (s *settings) wrong(path string, err error) error {
	if _, _, ok := s.places.of(path); ok {
		return s.at(path, err)
	}
	return usageError{s.at(path, err)}
}

func (s *settings) wrongf(path, format string, args ...any) error {
	return s.wrong(path, fmt.Errorf(format, args...))
}
