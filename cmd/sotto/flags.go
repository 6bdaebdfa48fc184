// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"log/slog"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"sotto/forwarder/upstream/address"
	"sotto/internal/config"
	"sotto/internal/daemon"
	"sotto/internal/service"
)

// options are the flags of a command.
type options struct {
	config string
	check  bool
	probe  string          // socket to ask instead of the control socket, if not ""
	flags  config.Settings // values of flags; only those that were set count
}

// upstreamFlags adds the flags of all commands that forward queries.
func (o *options) upstreamFlags(fs *pflag.FlagSet) {
	fs.StringArrayVarP(&o.flags.Upstream, "upstream", "u", nil,
		"server to forward to: a preset ("+strings.Join(address.Presets(), ", ")+"), ADDR[:PORT][#NAME] for DNS over TLS, a URL SCHEME://NAME[:PORT][/PATH][#ADDR,...] with tls, https, h3, quic or auto (also SCHEME://PRESET), an sdns:// stamp, or original (the nameserver that the client asked; not for serve); repeatable (default quad9, cloudflare)")
	fs.StringArrayVar(&o.flags.Bootstrap, "bootstrap", nil,
		"encrypted server that finds the addresses of upstreams that are given by name, written like --upstream with an address (`ADDR`); repeatable (default: the upstreams that have an address)")
	fs.StringVar(&o.flags.Policy, "policy", "", "how to choose a server: failover, fastest, random or hedged (default failover)")
	fs.StringVar(&o.flags.Profile, "profile", "", "strict: use only authenticated servers; opportunistic: use any server (default strict)")
	fs.StringVar(&o.flags.CAFile, "ca-file", "", "PEM `file` of certificate authorities to trust in addition to the system's")
	fs.StringVar(&o.flags.ClientCert, "client-cert", "", "PEM `file` of the certificate to send to servers that request one")
	fs.StringVar(&o.flags.ClientKey, "client-key", "", "PEM `file` of its private key")
	fs.StringVar(&o.flags.DNSSEC, "dnssec", "", "off, or validate: check the signatures of answers (default off)")
	fs.StringVar(&o.flags.Proxy, "proxy", "", "connect to the servers through a proxy: socks5://ADDR:PORT or http://ADDR:PORT (write a password into the file)")
	fs.StringVar(&o.flags.TrustAnchorFile, "trust-anchor-file", "", "`file` of DS or DNSKEY records to validate with, instead of the root zone's keys")
	fs.StringArrayVar(&o.flags.Pins, "pin", nil, "accept only servers with this key, as `sha256/BASE64`; repeatable")
	fs.IntVar(&o.flags.CacheMiB, "cache-mib", 0, "size of the cache in `MiB` (default 64)")
	fs.StringVar(&o.flags.LogLevel, "log-level", "", "debug, info, warn or error")
	fs.BoolVar(&o.flags.LogQueries, "log-queries", false, "log every query with its client, nameserver and result")
}

// guardFlag adds the flag of the commands that seal.
func (o *options) guardFlag(fs *pflag.FlagSet) {
	fs.StringVar(&o.flags.Guard, "guard", "", "what to do with plain queries that no socket hook redirects: drop, count or off (default drop)")
}

// localFlag adds the flag of the commands that seal.
func (o *options) localFlag(fs *pflag.FlagSet) {
	fs.StringVar(&o.flags.LocalResolvers, "local-resolvers", "", "queries to nameservers on this machine: keep (leave alone), redirect, or auto (keep only if the whole host is sealed) (default auto)")
}

// cgroupFlags adds the flags of the commands about a seal of the host.
func (o *options) cgroupFlags(fs *pflag.FlagSet) {
	fs.StringArrayVar(&o.flags.Cgroups, "cgroup", nil, "seal the cgroup at `PATH` instead of the whole host; repeatable")
	fs.StringArrayVar(&o.flags.Exclude, "exclude", nil, "do not seal the cgroup at `PATH` and those below it; repeatable")
}

// kubernetesFlags adds the flags about the cluster that this machine is a node of.
func (o *options) kubernetesFlags(fs *pflag.FlagSet) {
	k := &o.flags.Kubernetes
	fs.StringVar(&k.Cluster, "cluster", "", "names of a Kubernetes cluster go to its resolver: auto (if the kubelet is found), on or off (default auto)")
	fs.StringVar(&k.KubeletConfig, "kubelet-config", "", "the kubelet's configuration `file` (default: as its command line says)")
	fs.StringArrayVar(&k.ClusterDomain, "cluster-domain", nil, "`domain` of the cluster; repeatable (default: the kubelet's)")
	fs.StringArrayVar(&k.ClusterDNS, "cluster-dns", nil, "`address` of the cluster's resolver; repeatable (default: the kubelet's)")
	fs.StringArrayVar(&k.ServiceCIDR, "service-cidr", nil, "`network` of the cluster's services; repeatable")
	fs.StringArrayVar(&k.PodCIDR, "pod-cidr", nil, "`network` of the cluster's pods; repeatable")
	fs.StringVar(&k.OptOut, "opt-out", "", "which annotations sotto/seal: \"off\" exempt pods from the seal: off, namespaces or pods (default off)")
	fs.StringVar(&k.PodsFile, "pods-file", "", "`file` with the labels of pods that sotto-kubernetes writes (default "+config.Default().Kubernetes.PodsFile+")")
}

// fileFlags adds the flags of the commands with a configuration file.
func (o *options) fileFlags(fs *pflag.FlagSet) {
	o.configFlag(fs)
	fs.BoolVar(&o.check, "check", false, "check the configuration and the flags, and exit")
	o.controlFlag(fs)
	fs.StringVar(&o.flags.Metrics, "metrics", "", "serve metrics for Prometheus and a read-only web page at `ADDR:PORT`, such as 127.0.0.1:9053 (default off)")
}

func (o *options) configFlag(fs *pflag.FlagSet) {
	fs.StringVar(&o.config, "config", "", "configuration `file` (default "+config.DefaultPath+", if it exists)")
}

func (o *options) controlFlag(fs *pflag.FlagSet) {
	fs.StringVar(&o.flags.Control, "control", "", "`path` of the control socket of a running Sotto, or off (default for 'sotto run' "+config.DefaultControl+")")
}

// settings returns the settings of the file, overridden by the flags that were set.
func (o *options) settings(c *cobra.Command) (config.Settings, error) {
	s, err := config.Load(o.config)
	if err != nil {
		return s, err
	}
	o.override(c, &s)
	return s, nil
}

// settingOf are the settings whose flags have another name.
var settingOf = map[string]string{
	"pin": "pins", "cgroup": "cgroups",
	"cluster": "kubernetes.cluster", "kubelet-config": "kubernetes.kubelet-config", "cluster-domain": "kubernetes.cluster-domain",
	"cluster-dns": "kubernetes.cluster-dns", "service-cidr": "kubernetes.service-cidr", "pod-cidr": "kubernetes.pod-cidr",
	"opt-out": "kubernetes.opt-out", "pods-file": "kubernetes.pods-file",
}

// override sets in s the values of the flags that were set.
func (o *options) override(c *cobra.Command, s *config.Settings) {
	for name, set := range map[string]func(){
		"upstream":          func() { s.Upstream = o.flags.Upstream },
		"bootstrap":         func() { s.Bootstrap = o.flags.Bootstrap },
		"policy":            func() { s.Policy = o.flags.Policy },
		"profile":           func() { s.Profile = o.flags.Profile },
		"ca-file":           func() { s.CAFile = o.flags.CAFile },
		"client-cert":       func() { s.ClientCert = o.flags.ClientCert },
		"client-key":        func() { s.ClientKey = o.flags.ClientKey },
		"dnssec":            func() { s.DNSSEC = o.flags.DNSSEC },
		"trust-anchor-file": func() { s.TrustAnchorFile = o.flags.TrustAnchorFile },
		"proxy":             func() { s.Proxy = o.flags.Proxy },

		"pin":         func() { s.Pins = o.flags.Pins },
		"cache-mib":   func() { s.CacheMiB = o.flags.CacheMiB },
		"log-level":   func() { s.LogLevel = o.flags.LogLevel },
		"log-queries": func() { s.LogQueries = o.flags.LogQueries },
		"control":     func() { s.Control = o.flags.Control },
		"metrics":     func() { s.Metrics = o.flags.Metrics },
		"listen":      func() { s.Listen = o.flags.Listen },
		"cgroup":      func() { s.Cgroups = o.flags.Cgroups },
		"exclude":     func() { s.Exclude = o.flags.Exclude },
		"guard":       func() { s.Guard = o.flags.Guard },

		"local-resolvers": func() { s.LocalResolvers = o.flags.LocalResolvers },

		"on-exit": func() { s.OnExit = o.flags.OnExit },

		"when-replaced": func() { s.WhenReplaced = o.flags.WhenReplaced },

		"cluster":        func() { s.Kubernetes.Cluster = o.flags.Kubernetes.Cluster },
		"kubelet-config": func() { s.Kubernetes.KubeletConfig = o.flags.Kubernetes.KubeletConfig },
		"cluster-domain": func() { s.Kubernetes.ClusterDomain = o.flags.Kubernetes.ClusterDomain },
		"cluster-dns":    func() { s.Kubernetes.ClusterDNS = o.flags.Kubernetes.ClusterDNS },
		"service-cidr":   func() { s.Kubernetes.ServiceCIDR = o.flags.Kubernetes.ServiceCIDR },
		"pod-cidr":       func() { s.Kubernetes.PodCIDR = o.flags.Kubernetes.PodCIDR },
		"opt-out":        func() { s.Kubernetes.OptOut = o.flags.Kubernetes.OptOut },
		"pods-file":      func() { s.Kubernetes.PodsFile = o.flags.Kubernetes.PodsFile },
	} {
		if c.Flags().Changed(name) {
			set()
			key, renamed := settingOf[name]
			if !renamed {
				key = name
			}
			s.Override(key)
		}
	}
}

// loader returns a function that loads the configuration with the flags of c.
func (o *options) loader(c *cobra.Command, opts config.Options) daemon.Loader {
	return func() (config.Settings, config.Plan, error) {
		s, err := o.settings(c)
		if err != nil {
			return s, config.Plan{}, err
		}
		p, err := s.Plan(opts)
		return s, p, err
	}
}

// runLoader returns the loader of `run`. Commands that check whether a `run` can start use it as
// well, because they have to load the same plan.
func (e *env) runLoader(c *cobra.Command, o *options) daemon.Loader {
	return o.loader(c, config.Options{Read: config.ReadFile, StateDir: e.stateDir(), Kubernetes: e.kubernetes()})
}

// daemonOptions returns the options of a command that answers queries.
func (e *env) daemonOptions(load daemon.Loader) daemon.Options {
	return daemon.Options{
		Version: versionText(), Load: load, Logger: e.logger, Stderr: e.stderr, NotifySocket: e.getenv("NOTIFY_SOCKET"),
		Watchdog: service.WatchdogTime(e.getenv, os.Getpid()), DropPrivileges: e.dropPrivileges, PathTest: e.pathTest,
	}
}

// stateDir returns the directory for state that the service manager has created, or "".
func (e *env) stateDir() string {
	dir, _, _ := strings.Cut(e.getenv("STATE_DIRECTORY"), ":") // a unit may have several
	return dir
}

// logger returns a logger to stderr with the given level.
func (e *env) logger(level slog.Leveler) *slog.Logger {
	return slog.New(slog.NewTextHandler(e.stderr, &slog.HandlerOptions{Level: level}))
}

// seeCgroups makes the cgroup hierarchy of the host visible in a container. The program may be
// executed again: call it before anything that cannot be done twice, such as reading a pipe.
func (e *env) seeCgroups() error {
	if e.enterHost == nil {
		return nil // in tests
	}
	return e.enterHost()
}

// needRoot returns an error if the process is not root.
func needRoot(command string) error {
	if os.Geteuid() != 0 {
		return fmt.Errorf("sotto %s needs root to load eBPF programs and to create a network namespace: sudo sotto %s …", command, command)
	}
	return nil
}
