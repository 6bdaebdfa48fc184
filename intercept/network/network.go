// SPDX-License-Identifier: Apache-2.0

package network

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

// linkMTU is the maximum of a veth. The two ends are connected only by memory, so queries
// and answers of any size cross without fragmentation. The smaller MTU of a container still
// applies to its own part of the path, by its TCP MSS, and UDP answers do not exceed 1,232
// bytes anyway.
const linkMTU = 65535

// Config describes a network. [New] validates it.
type Config struct {
	Name string // of the namespace, as ip-netns(8) shows it
	Link string // base of the interface names: LINK0 on the host, LINK1 in the namespace

	// Prefix4 and Prefix6 contain the virtual addresses. The first four addresses of each
	// and the last one are reserved.
	Prefix4, Prefix6 netip.Prefix

	// Old are the prefixes of earlier processes with the same name and link. Their routes are no
	// conflict; RemoveOld removes them.
	Old []netip.Prefix

	Log *slog.Logger // nil discards

	// OnChange, if not nil, is called from Run when the host's own connection changed:
	// other addresses, another default route, or IPv6 added or removed.
	OnChange func()

	// OnReconcile, if not nil, is called from Run after each reconciliation: when an
	// interface was added, removed or changed, and periodically.
	OnReconcile func()
}

// Network is the namespace of the listener, with the veth pair, its neighbours, and the
// routes on both sides. All methods may be called concurrently.
//
// On the host it adds one interface, and for each family a route to the prefix and an
// unreachable route. It does not change the host's forwarding (ip_forward) and reverse path
// filters: a reply has a source address in the prefix, and arrives by the interface that the
// prefix is routed to, which passes the strict filter too.
type Network struct {
	cfg  Config
	log  *slog.Logger
	has6 bool // the kernel has IPv6

	home *netns.NS       // the namespace that New was called in
	host *netlink.Handle // in home

	mu        sync.Mutex
	closed    bool
	checked   bool           // conflicts were checked
	elsewhere bool           // the name is mounted in another mount namespace: see netns.Elsewhere
	old       []netip.Prefix // of an earlier process; see RemoveOld
	nameless  bool           // and was removed, which cannot be repaired from here
	ns        *netns.NS
	inner     *netlink.Handle // in ns
	defaults  defaultRoutes   // as of the last Ensure
	src       [2]netip.Addr   // source addresses in the routes to the prefixes, IPv4 first
	repairs   []string        // what Ensure had to make since takeRepairs was last called
}

// New prepares the network for the network namespace of the calling thread. It changes
// nothing yet. The caller closes it.
func New(cfg Config) (*Network, error) {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Link == "" || len(cfg.Link)+1 > 15 { // IFNAMSIZ without the NUL
		return nil, fmt.Errorf("link base name %q: needs 1 to 14 characters", cfg.Link)
	}
	if err := errors.Join(
		CheckPrefix("prefix4", cfg.Prefix4, true), CheckPrefix("prefix6", cfg.Prefix6, false),
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
	n := &Network{cfg: cfg, log: cfg.Log, has6: hasIPv6(), home: home, host: host}
	n.addOld(cfg.Old)
	return n, nil
}

// Home returns the network namespace of the host: the one that New was called in. It is
// open until Close.
func (n *Network) Home() *netns.NS { return n.home }

// HostNetlink returns a handle in the network namespace of the host. It is open until Close.
func (n *Network) HostNetlink() *netlink.Handle { return n.host }

// HostLink returns the name of the host's end of the veth pair.
func (n *Network) HostLink() string { return n.hostIf() }

// hostIf and innerIf are the names of the two ends of the veth pair.
func (n *Network) hostIf() string  { return n.cfg.Link + "0" }
func (n *Network) innerIf() string { return n.cfg.Link + "1" }

// Prefixes returns the prefixes that the kernel can route.
func (n *Network) Prefixes() []netip.Prefix {
	if !n.has6 {
		return []netip.Prefix{n.cfg.Prefix4}
	}
	return []netip.Prefix{n.cfg.Prefix4, n.cfg.Prefix6}
}

// NameElsewhere reports whether the name of the namespace is mounted in another mount
// namespace than this process's. It is known after the first Ensure.
func (n *Network) NameElsewhere() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.elsewhere
}

// ErrClosed is returned by methods that are called before Ensure or after Close.
var ErrClosed = errors.New("the network namespace does not exist: not made yet, or closed")

// Ensure makes what is missing and corrects what differs. If nothing does, it changes
// nothing and thus causes no netlink event. It adopts the namespace, links and routes that
// an earlier process left.
func (n *Network) Ensure() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.closed {
		return ErrClosed
	}
	if !n.checked {
		if err := n.checkConflicts(); err != nil {
			return err
		}
		n.checked = true
	}
	// The unreachable routes come first: from then on an address of the prefix is answered by
	// the namespace or by EHOSTUNREACH, and never follows the default route.
	if err := n.ensureUnreachable(); err != nil {
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

// ensureNamespace makes the namespace, adopts the existing one with that name, or restores
// the name of the one in use.
func (n *Network) ensureNamespace() error {
	if n.ns != nil {
		return n.ensureName()
	}
	ns, err := netns.Open(n.cfg.Name)
	isNew := errors.Is(err, fs.ErrNotExist) || errors.Is(err, netns.ErrNotNamespace)
	if isNew {
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
		if isNew {
			err = errors.Join(err, netns.Delete(n.cfg.Name))
		}
		return errors.Join(err, ns.Close())
	}
	n.ns, n.inner = ns, inner
	if n.elsewhere = netns.Elsewhere(); n.elsewhere {
		return ns.Mount(n.cfg.Name) // an adopted one may have been named only here
	}
	return nil
}

// ensureName restores a name that was deleted, or given to another namespace. The namespace
// itself still exists, because this process holds it open; the listener and its sockets are
// not affected. A name in another mount namespace is not restored: a process that has
// dropped its privileges cannot enter that.
func (n *Network) ensureName() error {
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

// hasName reports whether the name refers to the namespace in use.
func (n *Network) hasName() bool {
	ns, err := netns.Open(n.cfg.Name)
	if err != nil {
		return false
	}
	defer ns.Close()
	return ns.ID() == n.ns.ID()
}

// Do runs fn inside the namespace, on a thread of its own.
func (n *Network) Do(fn func() error) error {
	n.mu.Lock()
	ns := n.ns
	n.mu.Unlock()
	if ns == nil {
		return ErrClosed
	}
	return ns.Do(fn)
}

// repaired records what Ensure had to make.
func (n *Network) repaired(what string) { n.repairs = append(n.repairs, what) }

// nameIsFine reports whether the namespace has its name, or cannot get it back.
func (n *Network) nameIsFine() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.closed || n.nameless || n.hasName()
}

// takeRepairs returns what Ensure had to make since the last call.
func (n *Network) takeRepairs() []string {
	n.mu.Lock()
	defer n.mu.Unlock()
	r := n.repairs
	n.repairs = nil
	return r
}

// deleteName removes the name. Where that is impossible from here the name stays, with an
// empty namespace, for the service manager to clear.
func (n *Network) deleteName() error {
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

// Close removes links, routes, the namespace and its name. It leaves a namespace that Ensure
// refused to adopt. The hooks must be detached
// before: without its unreachable route a prefix would follow the default route.
// unreachable, if not nil, is called when only the unreachable routes are left. Close is
// idempotent.
func (n *Network) Close(unreachable func()) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.closed {
		return nil
	}
	err := n.discardLinks()
	if unreachable != nil {
		unreachable()
	}
	err = errors.Join(err, removeRoutes(n.host, append(n.Prefixes(), n.old...)...))
	if n.ns != nil { // else the name is that of a namespace which Ensure did not take, or did not look at
		err = errors.Join(err, n.deleteName())
	}
	return errors.Join(err, n.release())
}

// Release closes the handles of this process and changes nothing in the kernel. It is
// idempotent.
func (n *Network) Release() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.closed {
		return nil
	}
	return n.release()
}

func (n *Network) release() error {
	n.closed = true
	var err error
	if n.ns != nil {
		n.inner.Close()
		err = n.ns.Close()
		n.ns = nil
	}
	n.host.Close()
	return errors.Join(err, n.home.Close())
}
