// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"strings"

	"github.com/pelletier/go-toml/v2"
)

// defaultConfig is read by run and serve where --config names nothing else; it
// need not be there.
const defaultConfig = "/etc/sotto/sotto.toml"

// settings are what the configuration file says, and flags say over it. The
// commented reference is docs/sotto.toml.
type settings struct {
	Upstream   []string     `toml:"upstream"`
	CAFile     string       `toml:"ca-file"`
	Pins       []string     `toml:"pins"`
	Listen     []string     `toml:"listen"`
	Cgroups    []string     `toml:"cgroups"`
	Exclude    []string     `toml:"exclude"`
	Ports      []uint16     `toml:"ports"`
	Prefix4    netip.Prefix `toml:"prefix4"`
	Prefix6    netip.Prefix `toml:"prefix6"`
	CacheMiB   int          `toml:"cache-mib"`
	LogQueries bool         `toml:"log-queries"`
	LogLevel   string       `toml:"log-level"`
}

// defaultSettings are Sotto's own: two operators that share no infrastructure,
// by address and name, the second for when the first fails.
func defaultSettings() settings {
	return settings{
		Upstream: []string{"quad9", "cloudflare"},
		Listen:   []string{"127.0.0.1:53"},
		CacheMiB: 64,
		LogLevel: "info",
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
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) && !must {
		return s, nil
	}
	if err != nil {
		return s, fmt.Errorf("read the configuration: %w", err)
	}
	if err := s.decode(text); err != nil {
		return s, fmt.Errorf("%s:%w", path, err)
	}
	return s, nil
}

// decode reads TOML over s. Its errors begin with line and column.
func (s *settings) decode(text []byte) error {
	d := toml.NewDecoder(bytes.NewReader(text)).DisallowUnknownFields()
	err := d.Decode(s)
	var strict *toml.StrictMissingError
	var wrong *toml.DecodeError
	switch {
	case errors.As(err, &strict) && len(strict.Errors) > 0:
		first := strict.Errors[0]
		row, col := first.Position()
		return fmt.Errorf("%d:%d: there is no setting %q: docs/sotto.toml lists them all", row, col, strings.Join(first.Key(), "."))
	case errors.As(err, &wrong):
		row, col := wrong.Position()
		return fmt.Errorf("%d:%d: %w", row, col, wrong)
	case err != nil:
		return fmt.Errorf(" %w", err)
	}
	return nil
}
