// SPDX-License-Identifier: Apache-2.0

package intercept

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/netip"
	"sync"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"sotto/internal/netns"
)

// linkMTU is veth's largest. Nothing but memory lies between the two ends, so
// neither a large query nor a large answer is ever cut into fragments there;
// a container's smaller MTU still holds for its own part of the way, through
// its TCP MSS, and UDP answers stay below 1,232 bytes anyway.
const linkMTU = 65535

// networkConfig describes the network that the listener lives in. newNetwork
// validates it.
type networkConfig struct {
	Name string // of the namespace, as ip-netns(8) shows it
	Link string // base of the links' names: LINK0 on the host, LINK1 inside

	// Prefix4 and Prefix6 are the addresses that queries are sent to. Their
	// first four addresses and the last are never slots.
	Prefix4, Prefix6 netip.Prefix

	Log *slog.Logger // nil discards

	// OnChange, if not nil, is called from run when the host's own way out
	// changed: other addresses, another default route, IPv6 come or gone.
	OnChange func()

	// OnLook, if not nil, is called from run after each look at the network: when a
	// link came, went or changed, and now and then.
	OnLook func()
}

// network is the namespace of the listener with all that leads there: the veth
// pair, its neighbours, the routes on both sides. ensure and close may be
// called concurrently with each other and with run.
//
// On the host it adds two links' worth of state and nothing else: one link and
// per family a route to the prefix plus an unreachable twin. Forwarding
// (ip_forward) and reverse path filters of the host are left as they are: a
// reply comes from the prefix, in on the link that the prefix is routed to,
// which also the strict filter passes.
type network struct {
	cfg  networkConfig
	log  *slog.Logger
	has6 bool // this kernel has IPv6

	home *netns.NS       // the namespace that newNetwork was called in
	host *netlink.Handle // in home

	mu        sync.Mutex
	closed    bool
	checked   bool // conflicts were looked for
	elsewhere bool // the name is in another mount namespace: see netns.Elsewhere
	nameless  bool // and is lost, which cannot be repaired from here
	ns        *netns.NS
	inner     *netlink.Handle // in ns
	way       wayOut          // as of the last ensure
	src       [2]netip.Addr   // the sources in the routes to the prefixes, IPv4's first
	repairs   []string        // what ensure had to make since they were last taken
}

// newNetwork prepares the network for the namespace of the calling thread. It
// changes nothing yet; the caller closes it.
func newNetwork(cfg networkConfig) (*network, error) {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Link == "" || len(cfg.Link)+1 > 15 { // IFNAMSIZ less the NUL
		return nil, fmt.Errorf("link base name %q: needs 1 to 14 characters", cfg.Link)
	}
	if err := errors.Join(
		checkPrefix("prefix4", cfg.Prefix4, true), checkPrefix("prefix6", cfg.Prefix6, false),
	); err != nil {
		return nil, err
	}
	home, err := netns.Current()
	if err != nil {
		return nil, err
	}
	host, err := home.Netlink()
	if err != nil {
		return nil, errors.Join(err, home.Close())
	}
	return &network{cfg: cfg, log: cfg.Log, has6: kernelHas6(), home: home, host: host}, nil
}

// hostLink and innerLink are the names of the veth pair's ends.
func (n *network) hostLink() string  { return n.cfg.Link + "0" }
func (n *network) innerLink() string { return n.cfg.Link + "1" }

// prefixes returns those that this kernel can route.
func (n *network) prefixes() []netip.Prefix {
	if !n.has6 {
		return []netip.Prefix{n.cfg.Prefix4}
	}
	return []netip.Prefix{n.cfg.Prefix4, n.cfg.Prefix6}
}

// errNetworkClosed is returned by what is called before ensure or after close.
var errNetworkClosed = errors.New("the namespace is not there: not made yet, or closed")

// ensure makes what is missing and mends what differs; where all is as it
// should be it changes nothing, and so causes no netlink event. It adopts what
// an earlier run left: its namespace, links and routes.
func (n *network) ensure() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.closed {
		return errNetworkClosed
	}
	if !n.checked {
		if err := n.checkConflicts(); err != nil {
			return err
		}
		n.checked = true
	}
	// The twins come first: from here on an address of the prefix is answered
	// by the namespace or by EHOSTUNREACH, and never follows a default route.
	if err := n.ensureTwins(); err != nil {
		return err
	}
	if err := n.ensureNamespace(); err != nil {
		return err
	}
	ends, err := n.ensureLinks()
	if err != nil {
		return err
	}
	if err := n.ensureInside(ends); err != nil {
		return err
	}
	return n.ensureRoutes(ends)
}

// ensureNamespace makes the namespace, adopts the one that has the name, or
// gives the one in use its name back.
func (n *network) ensureNamespace() error {
	if n.ns != nil {
		return n.ensureName()
	}
	ns, err := netns.Open(n.cfg.Name)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, netns.ErrNotNamespace) {
		ns, err = netns.New(n.cfg.Name)
	}
	if err != nil {
		return err
	}
	inner, err := ns.Netlink()
	if err == nil {
		if err = n.checkAdopted(inner); err != nil {
			inner.Close()
		}
	}
	if err != nil {
		return errors.Join(err, ns.Close())
	}
	n.ns, n.inner = ns, inner
	if n.elsewhere = netns.Elsewhere(); n.elsewhere {
		return ns.Mount(n.cfg.Name) // an adopted one may have had its name only here
	}
	return nil
}

// ensureName mends a name that was deleted, or given to another namespace. The
// namespace itself lives on: it is held open here, so the listener and all its
// sockets are where they were. A name in another mount namespace is left alone: a
// process that has given up its privileges cannot go there.
func (n *network) ensureName() error {
	if n.nameless || n.hasName() {
		return nil
	}
	if n.elsewhere {
		n.nameless = true
		n.log.Warn("the network namespace has lost its name, which cannot be restored from the mount namespace of this service; "+
			"queries are answered as before, until the service is restarted", "namespace", n.cfg.Name)
		return nil
	}
	err := n.ns.Mount(n.cfg.Name)
	if errors.Is(err, fs.ErrExist) {
		if err = netns.Delete(n.cfg.Name); err == nil {
			err = n.ns.Mount(n.cfg.Name)
		}
	}
	if err != nil {
		return err
	}
	n.repaired("name of the namespace")
	return nil
}

// hasName tells whether the name leads to the namespace in use.
func (n *network) hasName() bool {
	ns, err := netns.Open(n.cfg.Name)
	if err != nil {
		return false
	}
	defer ns.Close()
	return ns.ID() == n.ns.ID()
}

// do runs fn inside the namespace, on a thread of its own.
func (n *network) do(fn func() error) error {
	n.mu.Lock()
	ns := n.ns
	n.mu.Unlock()
	if ns == nil {
		return errNetworkClosed
	}
	return ns.Do(fn)
}

// repaired notes what ensure had to make.
func (n *network) repaired(what string) { n.repairs = append(n.repairs, what) }

// named reports whether the namespace has its name, or will not have it again.
func (n *network) named() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.closed || n.nameless || n.hasName()
}

// takeRepairs returns what ensure had to make since the last call.
func (n *network) takeRepairs() []string {
	n.mu.Lock()
	defer n.mu.Unlock()
	r := n.repairs
	n.repairs = nil
	return r
}

// deleteName takes the name away. Where that is not possible from here it stays, with an
// empty namespace, for the service manager to clear ([ClearStray]).
func (n *network) deleteName() error {
	if !n.elsewhere {
		return netns.Delete(n.cfg.Name)
	}
	err := netns.DeleteFromHere(n.cfg.Name)
	if errors.Is(err, unix.EBUSY) {
		n.log.Info("the network namespace keeps its name until 'sotto down --stray', the next start or 'sotto down'", "namespace", n.cfg.Name)
		return nil
	}
	return err
}

// close removes everything: links, routes, the namespace and its name. The hooks must be off
// by then: without its unreachable twin a prefix would follow the default route. unreachable
// is called while only the twins are left. It is idempotent.
func (n *network) close(unreachable func()) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.closed {
		return nil
	}
	n.closed = true
	err := removeLinks(n.host, n.hostLink(), n.innerLink())
	if unreachable != nil {
		unreachable()
	}
	err = errors.Join(err,
		removeRoutes(n.host, n.prefixes()...),
		n.deleteName(),
	)
	if n.inner != nil {
		n.inner.Close()
	}
	if n.ns != nil {
		err = errors.Join(err, n.ns.Close())
		n.ns = nil
	}
	n.host.Close()
	return errors.Join(err, n.home.Close())
}
