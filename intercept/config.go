// SPDX-License-Identifier: Apache-2.0

package intercept

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"path/filepath"
	"strings"
	"time"

	"sotto/intercept/guard"
	"sotto/intercept/network"
	"sotto/intercept/registry"
)

// The default directories of an instance's state. [Down] clears them.
const (
	defaultRunDir = "/run/sotto"
	defaultBPFFS  = "/sys/fs/bpf"
)

// defaultName is the name of the instance that seals the host.
const defaultName = "sotto"

// minOpenAfter is the minimum of OpenAfter: several heartbeats on a busy machine.
const minOpenAfter = 2 * time.Second

// GuardMode is what the guard does with queries that the hooks did not redirect; see
// [guard.Mode].
type GuardMode = guard.Mode

// The modes of the guard.
const (
	GuardDrop  = guard.Drop
	GuardCount = guard.Count
	GuardOff   = guard.Off
)

// LocalMode is what happens to queries to a local resolver: a nameserver whose address does
// not leave this machine, because it is a loopback address, an address of the host, or on a
// link that connects containers (see [guard.InsideLinks]).
type LocalMode int

const (
	// LocalKeep leaves the queries alone. The local resolver's own queries must be sealed.
	LocalKeep LocalMode = iota

	// LocalRedirect redirects them like those to other nameservers.
	LocalRedirect
)

// String returns the name of the mode in the configuration.
func (m LocalMode) String() string {
	return [...]string{LocalKeep: "keep", LocalRedirect: "redirect"}[m]
}

// Limits of [Config].
const (
	// MaxPorts is MAX_PORTS in bpf/settings.h.
	MaxPorts = 16

	// LongestPrefix4 and LongestPrefix6 are the longest lengths of Prefix4 and Prefix6.
	LongestPrefix4 = network.Longest4
	LongestPrefix6 = network.Longest6
)

// defaultLinger is how long a slot outlives the last query of an unconnected socket. Clients
// do not wait that long for a reply.
const defaultLinger = time.Minute

// Config describes a seal. Open validates it. The zero value of all fields except Cgroups
// means the default.
type Config struct {
	// Name of the instance, its namespace and its pins: "sotto" or "sotto-WORD".
	// Default: "sotto", or with Ephemeral an unused "sotto-N".
	Name string

	// Ephemeral instances seal one command. Cgroups were created for it and belong to the
	// instance: if the instance crashed, the processes in them are killed, because they must
	// not continue without a seal. Their prefixes are small, unused ones.
	Ephemeral bool

	// Cgroups are the directories of the cgroups to seal, with all cgroups below them.
	Cgroups []string

	// Exclude are the directories of cgroups that are not sealed, with all cgroups below them.
	Exclude []string

	// Ports are the sealed ports. Default: 53. At most [MaxPorts].
	Ports []uint16

	// Prefix4 and Prefix6 are the networks of the virtual addresses. The smaller one
	// determines the number of slots. Default: 198.19.0.0/16 and fd73:6f74:746f::/64, or with
	// Ephemeral unused ones.
	Prefix4, Prefix6 netip.Prefix

	// Quota is the number of slots that a cgroup, with all below it, may hold. Default: half of
	// what its parent may hold and its siblings do not hold, so that no cgroup starves others;
	// with Ephemeral, where there is only one command, all slots.
	Quota int

	// Linger is how long a slot outlives the last query of an unconnected socket.
	// Default: one minute.
	Linger time.Duration

	// Guard is what happens to queries that the hooks did not redirect. Default: GuardDrop.
	Guard GuardMode

	// GuardHost makes the guard check packets without a local socket, too: those of virtual
	// machines, and whatever else the host forwards. It is for seals of the root cgroup.
	GuardHost bool

	// LocalResolvers is what happens to queries to nameservers on this machine. Default:
	// LocalKeep.
	LocalResolvers LocalMode

	// Attribution makes the kernel store the process of each socket, for [Instance.Process].
	// It needs a guard.
	Attribution bool

	// OpenAfter, if not 0, makes the seal fail open: without a heartbeat of the process for
	// this time, hooks and guard let everything through. By default they fail closed.
	OpenAfter time.Duration

	// Hits makes the kernel answer cached queries, if it can. It needs a guard. Nil: it does not.
	Hits *Hits

	// OnNetworkChange, if not nil, is called from Run when the host's default routes or
	// addresses changed: connections to upstreams may be broken.
	OnNetworkChange func()

	// OnDrop, if not nil, is called from Run for each query that the seal refuses or drops during
	// a trace ([Instance.StartTrace]). It must not block.
	OnDrop func(Drop)

	Log *slog.Logger // nil discards

	// RunDir contains the locks and records of the instances, BPFFS/sotto their pins.
	// Default: /run/sotto and /sys/fs/bpf, which is mounted if necessary.
	RunDir, BPFFS string
}

// linkBase returns the base of an instance's interface names.
func linkBase(name string) string { return strings.ReplaceAll(name, "-", "") }

// validate sets defaults and returns an error for invalid settings. Names and prefixes of an
// ephemeral instance are picked later, under the registry's lock.
func (c *Config) validate() error {
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.RunDir == "" {
		c.RunDir = defaultRunDir
	}
	if c.BPFFS == "" {
		c.BPFFS = defaultBPFFS
	}
	if len(c.Ports) == 0 {
		c.Ports = []uint16{53}
	}
	if c.Linger == 0 {
		c.Linger = defaultLinger
	}
	if !c.Ephemeral {
		if c.Name == "" {
			c.Name = defaultName
		}
		if !c.Prefix4.IsValid() {
			c.Prefix4 = network.DefaultPrefix4
		}
		if !c.Prefix6.IsValid() {
			c.Prefix6 = network.DefaultPrefix6
		}
	}
	return errors.Join(c.checkNames(), c.checkNumbers(), c.checkPrefixes())
}

func (c *Config) checkNames() error {
	var errs []error
	if c.Name != "" && !registry.ValidName(c.Name) {
		errs = append(errs, fmt.Errorf("name %q: write sotto, or sotto- with up to eight of a-z and 0-9", c.Name))
	}
	if len(c.Cgroups) == 0 {
		errs = append(errs, errors.New("cgroups: none given; name at least one to seal"))
	}
	for _, list := range [][]string{c.Cgroups, c.Exclude, {c.RunDir, c.BPFFS}} {
		for _, dir := range list {
			if !filepath.IsAbs(dir) {
				errs = append(errs, fmt.Errorf("directory %q: write it with its full path", dir))
			}
		}
	}
	return errors.Join(errs...)
}

func (c *Config) checkNumbers() error {
	var errs []error
	if len(c.Ports) > MaxPorts {
		errs = append(errs, fmt.Errorf("ports: %d given; %d is the most", len(c.Ports), MaxPorts))
	}
	for _, p := range c.Ports {
		if p == 0 {
			errs = append(errs, errors.New("ports: 0 is not a port"))
		}
	}
	if c.Quota < 0 {
		errs = append(errs, fmt.Errorf("quota %d: must not be negative", c.Quota))
	}
	if c.Linger < 0 {
		errs = append(errs, fmt.Errorf("linger %s: must not be negative", c.Linger))
	}
	if c.OpenAfter != 0 && c.OpenAfter < minOpenAfter {
		errs = append(errs, fmt.Errorf("open after %s: must be 0 (never) or at least %s", c.OpenAfter, minOpenAfter))
	}
	return errors.Join(errs...)
}

func (c *Config) checkPrefixes() error {
	var errs []error
	if c.Prefix4.IsValid() {
		errs = append(errs, network.CheckPrefix("prefix4", c.Prefix4, true))
	}
	if c.Prefix6.IsValid() {
		errs = append(errs, network.CheckPrefix("prefix6", c.Prefix6, false))
	}
	return errors.Join(errs...)
}

// maxSlots is MAX_SLOTS in bpf/settings.h. Of a larger prefix, only that many addresses are
// used.
const maxSlots = 65536

// slotCount returns the number of addresses of each prefix that are used: that of the smaller
// prefix.
func (c *Config) slotCount() uint32 {
	n := uint32(maxSlots)
	if bits := 32 - c.Prefix4.Bits(); bits < 16 {
		n = 1 << bits
	}
	if bits := 128 - c.Prefix6.Bits(); bits < 16 {
		n = min(n, 1<<bits)
	}
	return n
}

// quota returns the number of slots for each cgroup; 0 means shares.
func (c *Config) quota() uint64 {
	switch {
	case c.Quota > 0:
		return uint64(c.Quota)
	case c.Ephemeral:
		return uint64(c.slotCount())
	}
	return 0
}
