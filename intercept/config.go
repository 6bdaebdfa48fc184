// SPDX-License-Identifier: Apache-2.0

package intercept

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"path/filepath"
	"regexp"
	"strings"
	"time"
)

// Where instances keep their state. The defaults of every Config, and what
// [Down] clears.
const (
	defaultRunDir = "/run/sotto"
	defaultBPFFS  = "/sys/fs/bpf"
)

// defaultName is the instance that seals the host.
const defaultName = "sotto"

// maxPorts is MAX_PORTS in bpf/settings.h.
const maxPorts = 16

// defaultLinger is how long a slot is kept after the last send of an unconnected
// socket: a reply that comes later has no use, since clients gave up long ago.
const defaultLinger = time.Minute

// Config says what to seal and how. Open validates it; the zero value of every
// field but Cgroups means its default.
type Config struct {
	// Name of the instance, of its namespace and pins: "sotto" or "sotto-WORD".
	// Default: "sotto", or with Ephemeral a free "sotto-N".
	Name string

	// Ephemeral instances seal one command: Sotto made Cgroups for it, and they
	// belong to the instance. When it is found dead, what still runs in them is
	// killed, for it must not go on unsealed. Their prefixes are small free ones.
	Ephemeral bool

	// Cgroups are the directories of the cgroups to seal, with all below them.
	Cgroups []string

	// Exclude are directories of cgroups that are let through, with all below.
	Exclude []string

	// Ports of nameservers. Default: 53. At most 16.
	Ports []uint16

	// Prefix4 and Prefix6 hold the virtual addresses that stand for nameservers.
	// Default: 198.19.0.0/16 and fd73:6f74:746f::/64, or with Ephemeral free ones.
	// IPv4 decides how many slots there are.
	Prefix4, Prefix6 netip.Prefix

	// Quota is how many slots a cgroup, with all below it, may hold. Default: half of
	// what its parent may hold and its siblings do not, so that none starves the rest;
	// with Ephemeral, where there is one command, all.
	Quota int

	// Linger is how long a slot outlives the last send of an unconnected socket.
	// Default: one minute.
	Linger time.Duration

	// Guard is what becomes of queries that leave past the hooks. Default: GuardDrop.
	Guard GuardMode

	// GuardHost has the guard look at packets that belong to no socket here as well:
	// those of virtual machines, and what else the host forwards. For who seals the
	// root cgroup.
	GuardHost bool

	// OpenAfter, if not 0, is how long after the last sign of life of this process
	// its hooks and its guard let everything through. By default they stay closed.
	OpenAfter time.Duration

	// OnNetworkChange, if not nil, is called from Run when the host's way out
	// changed: what is kept open towards upstreams may be stale.
	OnNetworkChange func()

	Log *slog.Logger // nil discards

	// RunDir holds the locks and records of the instances, BPFFS the pins below
	// sotto/. Default: /run/sotto and /sys/fs/bpf, which is mounted if need be.
	RunDir, BPFFS string
}

// goodName keeps the names of links, made from it, within IFNAMSIZ, and what
// Down looks for recognisable.
var goodName = regexp.MustCompile(`^sotto(-[a-z0-9]{1,8})?$`)

// linkBase makes the base of an instance's link names.
func linkBase(name string) string { return strings.ReplaceAll(name, "-", "") }

// validate fills in defaults and refuses what cannot work. Names and prefixes of
// an ephemeral instance are picked later, under the lock.
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
			c.Prefix4 = defaultPrefix4
		}
		if !c.Prefix6.IsValid() {
			c.Prefix6 = defaultPrefix6
		}
	}
	return errors.Join(c.checkNames(), c.checkNumbers(), c.checkPrefixes())
}

func (c *Config) checkNames() error {
	var errs []error
	if c.Name != "" && !goodName.MatchString(c.Name) {
		errs = append(errs, fmt.Errorf("name %q: write sotto, or sotto- and up to eight of a-z and 0-9", c.Name))
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
	if len(c.Ports) > maxPorts {
		errs = append(errs, fmt.Errorf("ports: %d given; %d is the most", len(c.Ports), maxPorts))
	}
	for _, p := range c.Ports {
		if p == 0 {
			errs = append(errs, errors.New("ports: 0 is no port"))
		}
	}
	if c.Quota < 0 {
		errs = append(errs, fmt.Errorf("quota %d: must not be negative", c.Quota))
	}
	if c.Linger < 0 {
		errs = append(errs, fmt.Errorf("linger %s: must not be negative", c.Linger))
	}
	if c.OpenAfter != 0 && c.OpenAfter < leastOpenAfter {
		errs = append(errs, fmt.Errorf("open after %s: must be 0, for never, or at least %s", c.OpenAfter, leastOpenAfter))
	}
	return errors.Join(errs...)
}

func (c *Config) checkPrefixes() error {
	var errs []error
	if c.Prefix4.IsValid() {
		errs = append(errs, checkPrefix("prefix4", c.Prefix4, true))
	}
	if c.Prefix6.IsValid() {
		errs = append(errs, checkPrefix("prefix6", c.Prefix6, false))
	}
	return errors.Join(errs...)
}

// maxSlots is MAX_SLOTS in bpf/settings.h; a larger prefix is used in part.
const maxSlots = 65536

// slotCount is how many addresses of each prefix are in use: those of the smaller.
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

// quota is a fixed number of slots for each cgroup; 0 means shares.
func (c *Config) quota() uint64 {
	switch {
	case c.Quota > 0:
		return uint64(c.Quota)
	case c.Ephemeral:
		return uint64(c.slotCount())
	}
	return 0
}
