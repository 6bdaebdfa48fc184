// SPDX-License-Identifier: Apache-2.0

package network

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"sotto/internal/netns"
)

// MAC addresses of the two ends, locally administered ("sot" in them). They are set when
// the pair is made: otherwise systemd-udevd would assign new ones, and the neighbour entries
// would be wrong.
var (
	MACHost  = net.HardwareAddr{0x02, 's', 'o', 't', 0, 0}
	MACInner = net.HardwareAddr{0x02, 's', 'o', 't', 0, 1}
)

// Next hops of the IPv6 routes. They are link-local and resolved only by permanent neighbour
// entries: unlike a next hop in the prefix the kernel accepts them without a route lookup, so
// that no other route on the host can invalidate them.
var (
	hop6Host  = net.ParseIP("fe80::1")
	hop6Inner = net.ParseIP("fe80::2")
)

// veth is the current state of the pair.
type veth struct{ host, inner netlink.Link }

// ensureLinks makes the pair, and replaces one that is incomplete.
func (n *Network) ensureLinks() (veth, error) {
	ends, err := n.findLinks()
	if err != nil {
		return veth{}, err
	}
	if ends.host == nil {
		if err := n.addLinks(); err != nil {
			return veth{}, err
		}
		n.repaired("links")
		if ends, err = n.findLinks(); err != nil {
			return veth{}, err
		}
		if ends.host == nil {
			return veth{}, fmt.Errorf("find link %s: deleted right after it was made; stop the program on this machine that deletes it", n.hostIf())
		}
	}
	return n.setUp(ends)
}

// setUp configures both ends and waits until packets pass.
func (n *Network) setUp(ends veth) (veth, error) {
	for _, end := range []struct {
		ns   *netns.NS
		h    *netlink.Handle
		link netlink.Link
		set  []string
	}{{n.home, n.host, ends.host, hostSysctls(n.hostIf())}, {n.ns, n.inner, ends.inner, innerSysctls(n.innerIf())}} {
		if err := setSysctls(end.ns, end.set); err != nil {
			return veth{}, err
		}
		var err error
		attrs := end.link.Attrs()
		if attrs.MTU != linkMTU {
			err = end.h.LinkSetMTU(end.link, linkMTU)
		}
		if attrs.Flags&net.FlagUp == 0 {
			err = errors.Join(err, end.h.LinkSetUp(end.link))
			n.repaired("state of link " + attrs.Name)
		}
		if err != nil {
			return veth{}, fmt.Errorf("set up link %s: %w", attrs.Name, err)
		}
	}
	// The kernel activates a device whose peer was set up in a worker of its own, mostly at
	// once and at most a second later (net/core/link_watch.c). Until then it drops packets, and
	// a client would have to retry.
	for deadline := time.Now().Add(3 * time.Second); ; time.Sleep(2 * time.Millisecond) {
		now, err := n.findLinks()
		if err != nil || now.host == nil {
			return veth{}, errors.Join(err, fmt.Errorf("set up link %s: it was deleted meanwhile", n.hostIf()))
		}
		if running(now.host) && running(now.inner) {
			return now, nil
		}
		if time.Now().After(deadline) {
			return veth{}, fmt.Errorf("set up link %s: it stays down", n.hostIf())
		}
	}
}

// running reports whether the kernel accepts packets for the link.
func running(l netlink.Link) bool { return l.Attrs().OperState == netlink.OperUp }

// findLinks returns the pair if both ends exist and belong together, and the zero value
// otherwise. A link of another kind with that name is an error.
func (n *Network) findLinks() (veth, error) {
	host, err := findLink(n.host, n.hostIf())
	if err != nil {
		return veth{}, err
	}
	if host != nil && host.Type() != "veth" {
		return veth{}, fmt.Errorf("find link %s: it is a %s and not Sotto's; rename it", n.hostIf(), host.Type())
	}
	inner, err := findLink(n.inner, n.innerIf())
	if err != nil {
		return veth{}, err
	}
	if host == nil || inner == nil ||
		host.Attrs().ParentIndex != inner.Attrs().Index || inner.Attrs().ParentIndex != host.Attrs().Index ||
		!bytes.Equal(host.Attrs().HardwareAddr, MACHost) || !bytes.Equal(inner.Attrs().HardwareAddr, MACInner) {
		return veth{}, nil
	}
	return veth{host, inner}, nil
}

// findLink returns nil if there is no such link.
func findLink(h *netlink.Handle, name string) (netlink.Link, error) {
	link, err := h.LinkByName(name)
	var missing netlink.LinkNotFoundError
	if errors.As(err, &missing) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("find link %s: %w", name, err)
	}
	return link, nil
}

// addLinks makes the pair, with the inner end in the namespace from the start. It first
// removes parts of an incomplete pair.
func (n *Network) addLinks() error {
	if err := errors.Join(
		removeLinks(n.host, n.hostIf(), n.innerIf()), removeLinks(n.inner, n.innerIf()),
	); err != nil {
		return err
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU, attrs.HardwareAddr = n.hostIf(), linkMTU, MACHost
	err := n.host.LinkAdd(&netlink.Veth{
		LinkAttrs: attrs, PeerName: n.innerIf(), PeerMTU: linkMTU, PeerHardwareAddr: MACInner,
		PeerNamespace: netlink.NsFd(n.ns.Fd()),
	})
	if err != nil {
		return fmt.Errorf("make link %s: %w", n.hostIf(), err)
	}
	return nil
}

// discardLinks moves the host's end into the namespace, with which the kernel removes both ends
// later. Removing a link takes about 12 ms, because the kernel waits for readers (rcu_barrier in
// net/core/dev.c, netdev_wait_allrefs_any); moving one does not. Where that fails it removes the
// links.
func (n *Network) discardLinks() error {
	link, err := findLink(n.host, n.hostIf())
	if err == nil && link != nil && link.Type() == "veth" && n.ns != nil && n.host.LinkSetNsFd(link, n.ns.Fd()) == nil {
		return removeLinks(n.host, n.innerIf())
	}
	return removeLinks(n.host, n.hostIf(), n.innerIf())
}

// removeLinks removes those of the named links that are veths; the kernel removes the other
// end too. It is not an error if a link does not exist, or is not a veth and thus not
// Sotto's.
func removeLinks(h *netlink.Handle, names ...string) error {
	var errs []error
	for _, name := range names {
		link, err := findLink(h, name)
		if err == nil && link != nil && link.Type() == "veth" {
			if err = h.LinkDel(link); errors.Is(err, unix.ENODEV) {
				err = nil
			}
			if err != nil {
				err = fmt.Errorf("remove link %s: %w", name, err)
			}
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// checkAdopted returns an error if another program uses the namespace with that name.
func (n *Network) checkAdopted(inner *netlink.Handle) error {
	links, err := inner.LinkList()
	if err != nil {
		return fmt.Errorf("list links in namespace %s: %w", n.cfg.Name, err)
	}
	for _, l := range links {
		a := l.Attrs()
		// The links that every new namespace has (tunl0, sit0) are down.
		if a.Flags&net.FlagUp != 0 && a.Flags&net.FlagLoopback == 0 && a.Name != n.innerIf() {
			return fmt.Errorf("adopt namespace %s: link %s in it is not Sotto's; "+
				"rename that namespace or delete it with: ip netns del %s", n.cfg.Name, a.Name, n.cfg.Name)
		}
	}
	return nil
}

// hostSysctls returns the settings of the host's end, as pairs of name and value. A question
// mark marks those that may be missing: IPv6 as a whole, or a setting that the kernel does
// not have yet.
func hostSysctls(link string) []string {
	v6 := "?net/ipv6/conf/" + link
	return []string{
		v6 + "/disable_ipv6", "0", v6 + "/accept_dad", "0", v6 + "/accept_ra", "0", v6 + "/addr_gen_mode", "1",
	}
}

// innerSysctls returns the settings of the namespace and its end of the pair.
func innerSysctls(link string) []string {
	v4, v6 := "net/ipv4/conf/", "?net/ipv6/conf/"
	return append(hostSysctls(link),
		// First, because changing it resets other settings. A new namespace starts with the
		// host's IPv4 settings, and on a router this is 1.
		"net/ipv4/ip_forward", "0",
		v4+"all/rp_filter", "0", v4+"default/rp_filter", "0", v4+link+"/rp_filter", "0",
		v6+"all/disable_ipv6", "0", v6+"lo/disable_ipv6", "0",
		// Without this, IPv6 does not allow an AnyIP source address in a reply.
		"net/ipv4/ip_nonlocal_bind", "1", "?net/ipv6/ip_nonlocal_bind", "1",
		// Since Linux 5.14: connections that wait for a listener that closes move to the next
		// one on its port, so that an upgrade resets none.
		"?net/ipv4/tcp_migrate_req", "1",
	)
}

// setSysctls sets pairs of name and value in a namespace. It writes only those that differ.
func setSysctls(ns *netns.NS, pairs []string) error {
	return ns.Do(func() error {
		for i := 0; i+1 < len(pairs); i += 2 {
			name, optional := strings.CutPrefix(pairs[i], "?")
			path := "/proc/sys/" + name
			old, err := os.ReadFile(path)
			if errors.Is(err, fs.ErrNotExist) && optional {
				continue
			}
			if err == nil && strings.TrimSpace(string(old)) == pairs[i+1] {
				continue
			}
			err = os.WriteFile(path, []byte(pairs[i+1]), 0)
			if errors.Is(err, unix.EROFS) {
				err = writeSysctl(name, pairs[i+1])
			}
			if err != nil {
				return fmt.Errorf("set sysctl %s: %w; in a container, /proc/sys must be writable (--privileged), or mounting allowed (CAP_SYS_ADMIN, --security-opt apparmor=unconfined)", name, err)
			}
		}
		return nil
	})
}

// writeSysctl writes by a private mount of procfs: in a container parts of the one at /proc
// are mounted read-only.
func writeSysctl(name, value string) error {
	context, err := unix.Fsopen("proc", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return err
	}
	defer unix.Close(context)
	if err := unix.FsconfigCreate(context); err != nil {
		return err
	}
	root, err := unix.Fsmount(context, unix.FSMOUNT_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(root)
	fd, err := unix.Openat(root, "sys/"+name, unix.O_WRONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	_, err = unix.Write(fd, []byte(value))
	return errors.Join(err, unix.Close(fd))
}

// hasIPv6 reports whether the kernel has IPv6.
func hasIPv6() bool {
	_, err := os.Stat("/proc/sys/net/ipv6")
	return err == nil
}
