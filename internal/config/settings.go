// SPDX-License-Identifier: Apache-2.0

package config

import (
	"errors"
	"fmt"
	"io/fs"

	"sotto/forwarder/localnames"
	"sotto/forwarder/upstream"
)

const (
	// DefaultPath is the file that [Load] reads if no other is named. It may be missing.
	DefaultPath = "/etc/sotto/sotto.toml"

	// DefaultControl is the path of the control socket of `sotto run`.
	DefaultControl = "/run/sotto/control.sock"

	// ControlOff is the value of the setting control that disables the control socket.
	ControlOff = "off"
)

// Settings are the contents of the configuration file, overridden by flags, before
// validation by [Settings.Plan]. docs/sotto.toml describes each of them.
type Settings struct {
	GroupSettings // of the group "default"

	Groups []GroupBlock `toml:"group"`
	Rules  []RuleBlock  `toml:"rule"`

	Kubernetes KubernetesBlock `toml:"kubernetes"`

	CacheMiB       int    `toml:"cache-mib"`
	MinTTL         string `toml:"min-ttl"`
	MaxTTL         string `toml:"max-ttl"`
	MaxNegativeTTL string `toml:"max-negative-ttl"`
	ServeStale     string `toml:"serve-stale"`
	Prefetch       bool   `toml:"prefetch"`
	CacheFile      string `toml:"cache-file"`
	RRsetOrder     string `toml:"rrset-order"`

	SharedSettings

	ListDir      string `toml:"list-dir"`
	ListInterval string `toml:"list-interval"`

	MaxQueries int `toml:"max-queries"`
	MaxWaiting int `toml:"max-waiting"`
	MaxRelays  int `toml:"max-relays"`
	MaxTCP     int `toml:"max-tcp"`

	LogQueries bool   `toml:"log-queries"`
	LogLevel   string `toml:"log-level"`

	QueryLog          string `toml:"query-log"`
	QueryLogSample    int    `toml:"query-log-sample"`
	QueryLogHashNames bool   `toml:"query-log-hash-names"`

	DnstapFile     string   `toml:"dnstap-file"`
	DnstapSocket   string   `toml:"dnstap-socket"`
	DnstapMessages []string `toml:"dnstap-messages"`
	DnstapIdentity string   `toml:"dnstap-identity"`
	DnstapTLS      string   `toml:"dnstap-tls"`

	Control string `toml:"control"`
	Metrics string `toml:"metrics"`

	ControlGroup string `toml:"control-group"`

	Listen []string `toml:"listen"`
	Drain  string   `toml:"drain"`

	Cgroups []string `toml:"cgroups"`
	Exclude []string `toml:"exclude"`
	Ports   []int    `toml:"ports"`
	Prefix4 string   `toml:"prefix4"`
	Prefix6 string   `toml:"prefix6"`
	Guard   string   `toml:"guard"`

	Attribution bool `toml:"attribution"`

	KernelAnswers        string `toml:"kernel-answers"`
	KernelAnswersEntries int    `toml:"kernel-answers-entries"`

	LocalResolvers string   `toml:"local-resolvers"`
	LocalNames     []string `toml:"local-names"`

	OnExit string `toml:"on-exit"`

	WhenReplaced string `toml:"when-replaced"`
	ProbeSocket  string `toml:"probe-socket"`

	file      string    // the file that was read, for errors; "" if none was
	positions positions // of the settings that come from the file
}

// GroupSettings describe an upstream group: its servers and how to choose among them.
type GroupSettings struct {
	Upstream   []string `toml:"upstream"`
	Bootstrap  []string `toml:"bootstrap"`
	Policy     string   `toml:"policy"`
	Profile    string   `toml:"profile"`
	HedgeShare float64  `toml:"hedge-share"`
	CAFile     string   `toml:"ca-file"`
	ClientCert string   `toml:"client-cert"`
	ClientKey  string   `toml:"client-key"`
	Proxy      string   `toml:"proxy"`
	Pins       []string `toml:"pins"`

	TimeoutSettings
	NetworkSettings
	DNSSECSettings
	OriginalSettings
}

// GroupBlock is one [[group]].
type GroupBlock struct {
	Name string `toml:"name"`
	GroupSettings
}

// RuleBlock is one [[rule]].
type RuleBlock struct {
	Workload   OneOrMore `toml:"workload"`
	Pod        OneOrMore `toml:"pod"`
	PodLabel   OneOrMore `toml:"pod-label"`
	Namespace  OneOrMore `toml:"namespace-label"`
	Name       OneOrMore `toml:"name"`
	NamesFile  OneOrMore `toml:"names-file"`
	Lists      OneOrMore `toml:"lists"`
	Nameserver OneOrMore `toml:"nameserver"`
	Type       OneOrMore `toml:"type"`
	RD         *bool     `toml:"rd"`
	Opcode     Codes     `toml:"opcode"`
	Use        string    `toml:"use"`
	Address    OneOrMore `toml:"address"`
	HostsFile  OneOrMore `toml:"hosts-file"`
}

// Default returns the settings that apply without a file and flags. The default servers
// belong to two operators that share no infrastructure; the second is used when the first
// fails.
func Default() Settings {
	return Settings{
		GroupSettings:  GroupSettings{Upstream: []string{"quad9", "cloudflare"}, Policy: "failover", Profile: "strict", HedgeShare: upstream.DefaultHedgeShare, TimeoutSettings: defaultTimeouts(), NetworkSettings: defaultNetwork(), DNSSECSettings: DNSSECSettings{DNSSEC: DNSSECOff}},
		CacheMiB:       64,
		MinTTL:         "0s",
		MaxTTL:         "24h",
		MaxNegativeTTL: "1h",
		ServeStale:     "24h",
		Prefetch:       true,
		RRsetOrder:     OrderRotate,
		SharedSettings: defaultShared(),
		ListInterval:   "24h",
		MaxQueries:     8192,
		MaxWaiting:     65536,
		MaxRelays:      1024,
		MaxTCP:         4096,
		LogLevel:       "info",
		QueryLogSample: 1,
		DnstapMessages: []string{DnstapClient, DnstapForwarder}, DnstapTLS: DnstapDOT,
		Listen:        []string{"127.0.0.1:53"},
		Drain:         "0s",
		Ports:         []int{53},
		Prefix4:       "198.19.0.0/16",
		Prefix6:       "fd73:6f74:746f::/64",
		Guard:         "drop",
		Attribution:   true,
		KernelAnswers: KernelAnswersOn, KernelAnswersEntries: defaultKernelEntries,
		LocalResolvers: LocalAuto,
		LocalNames:     localnames.Default(),
		OnExit:         ExitStrict,
		WhenReplaced:   ReplacedExit,
		Kubernetes:     defaultKubernetes(),
	}
}

// Load reads the file at path over the defaults. If path is empty it reads [DefaultPath],
// if that exists.
func Load(path string) (Settings, error) {
	required := path != ""
	if !required {
		path = DefaultPath
	}
	text, err := readAtMost(path, maxConfig)
	if errors.Is(err, fs.ErrNotExist) && !required {
		return Default(), nil
	}
	if err != nil {
		return Default(), fmt.Errorf("read the configuration (--config): %w", err)
	}
	return Parse(path, text)
}

// Parse reads the text of a file over the defaults. Errors start with the file's name.
func Parse(file string, text []byte) (s Settings, err error) {
	s = Default()
	s.file = file
	if s.positions, err = decode(text, &s); err != nil {
		return s, fmt.Errorf("%s:%w", file, err)
	}
	return s, nil
}

// File returns the name of the file that the settings were read from, or "".
func (s *Settings) File() string { return s.file }

// Override records that the setting called key no longer has the file's value. The caller
// sets the new one.
func (s *Settings) Override(key string) { s.positions.remove(key) }

// ControlPath returns the path of the control socket, which is def unless the settings
// name another one. It is "" if there is none.
func (s *Settings) ControlPath(def string) string {
	switch s.Control {
	case "":
		return def
	case ControlOff:
		return ""
	}
	return s.Control
}
