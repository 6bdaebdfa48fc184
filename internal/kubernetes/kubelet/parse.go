// SPDX-License-Identifier: Apache-2.0

package kubelet

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

// Config is the part of a kubelet's configuration that matters for DNS.
type Config struct {
	ClusterDomain string       // "" if pods have no search domains of the cluster
	ClusterDNS    []netip.Addr // nameservers of pods
	CgroupRoot    string       // cgroup above "kubepods"; "" is the root
}

// kind is the kind of the files that Parse reads.
const kind = "KubeletConfiguration"

// Parse reads a configuration file, or a drop-in file, over c. What the file does not have stays
// as it is. JSON is YAML as well.
func (c *Config) Parse(text []byte) error {
	var f struct {
		Kind          string   `yaml:"kind"`
		ClusterDomain *string  `yaml:"clusterDomain"`
		ClusterDNS    []string `yaml:"clusterDNS"`
		CgroupRoot    *string  `yaml:"cgroupRoot"`
	}
	if err := yaml.Unmarshal(text, &f); err != nil {
		return err
	}
	if f.Kind != "" && f.Kind != kind {
		return fmt.Errorf("its kind is %q: want %s", f.Kind, kind)
	}
	if f.ClusterDomain != nil {
		c.ClusterDomain = *f.ClusterDomain
	}
	if f.CgroupRoot != nil {
		c.CgroupRoot = *f.CgroupRoot
	}
	if f.ClusterDNS == nil {
		return nil
	}
	return c.setDNS("clusterDNS", f.ClusterDNS)
}

func (c *Config) setDNS(key string, texts []string) error {
	c.ClusterDNS = nil
	for _, text := range texts {
		addr, err := netip.ParseAddr(strings.TrimSpace(text))
		if err != nil {
			return fmt.Errorf("%s: %q is not an address", key, text)
		}
		c.ClusterDNS = append(c.ClusterDNS, addr.Unmap().WithZone(""))
	}
	return nil
}

// command is what the command line of a process says.
type command struct {
	isKubelet bool
	file, dir string            // --config and --config-dir
	flags     map[string]string // others that ParseFlags reads
}

// flagNames are the flags that matter.
var flagNames = []string{"config", "config-dir", "cluster-domain", "cluster-dns", "cgroup-root"}

// parseCommand reads a command line as in /proc/PID/cmdline, split at its null bytes.
func parseCommand(args []string) command {
	c := command{flags: map[string]string{}}
	if len(args) == 0 {
		return c
	}
	name := args[0][strings.LastIndexByte(args[0], '/')+1:]
	c.isKubelet = name == "kubelet"
	for i := 1; i < len(args); i++ {
		name, value, found := strings.Cut(strings.TrimLeft(args[i], "-"), "=")
		if !strings.HasPrefix(args[i], "-") || !slices.Contains(flagNames, name) {
			continue
		}
		if !found && i+1 < len(args) {
			i++
			value = args[i]
		}
		c.flags[name] = value
	}
	c.file, c.dir = c.flags["config"], c.flags["config-dir"]
	return c
}

// ParseFlags reads the flags of a command line over c.
func (c *Config) ParseFlags(args []string) error {
	return c.override(parseCommand(args).flags)
}

func (c *Config) override(flags map[string]string) error {
	if v, ok := flags["cluster-domain"]; ok {
		c.ClusterDomain = v
	}
	if v, ok := flags["cgroup-root"]; ok {
		c.CgroupRoot = v
	}
	v, ok := flags["cluster-dns"]
	if !ok {
		return nil
	}
	if v == "" {
		c.ClusterDNS = nil
		return nil
	}
	return c.setDNS("--cluster-dns", strings.Split(v, ","))
}
