// SPDX-License-Identifier: Apache-2.0

package intercept

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

// The ends' addresses are set when the links are made, and locally administered
// ("sot" in them): systemd-udevd gives a new link a MAC of its own choosing
// unless somebody chose one already, and would make the neighbours wrong.
var (
	macHost  = net.HardwareAddr{0x02, 's', 'o', 't', 0, 0}
	macInner = net.HardwareAddr{0x02, 's', 'o', 't', 0, 1}
)

// Next hops of the IPv6 routes. Link-local ones, known by permanent neighbours
// only: unlike an address of the prefix they need no look-up to be accepted, so
// no other route on the host can make them invalid.
var (
	hop6Host  = net.ParseIP("fe80::1")
	hop6Inner = net.ParseIP("fe80::2")
)

// veth is the pair as it is now.
type veth struct{ host, inner netlink.Link }

// ensureLinks makes the pair, or makes it anew when it is not what it should be.
func (n *network) ensureLinks() (veth, error) {
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
			return veth{}, fmt.Errorf("find link %s: gone again; something on this machine deletes it", n.hostLink())
		}
	}
	return n.setUp(ends)
}

// setUp gives both ends their settings and waits until packets pass.
func (n *network) setUp(ends veth) (veth, error) {
	for _, end := range []struct {
		ns   *netns.NS
		h    *netlink.Handle
		link netlink.Link
		set  []string
	}{{n.home, n.host, ends.host, hostSysctls(n.hostLink())}, {n.ns, n.inner, ends.inner, innerSysctls(n.innerLink())}} {
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
	// The kernel starts a device whose peer came up in a worker of its own,
	// mostly at once and at most a second later (net/core/link_watch.c); until
	// then it drops what is sent, and a client would wait for its retry.
	for deadline := time.Now().Add(3 * time.Second); ; time.Sleep(2 * time.Millisecond) {
		now, err := n.findLinks()
		if err != nil || now.host == nil {
			return veth{}, errors.Join(err, fmt.Errorf("set up link %s: it was deleted meanwhile", n.hostLink()))
		}
		if running(now.host) && running(now.inner) {
			return now, nil
		}
		if time.Now().After(deadline) {
			return veth{}, fmt.Errorf("set up link %s: it stays down", n.hostLink())
		}
	}
}

// running tells whether the kernel takes packets for the link.
func running(l netlink.Link) bool { return l.Attrs().OperState == netlink.OperUp }

// findLinks returns the pair if both ends are there and belong together, and no
// link otherwise. A link of another kind by that name is an error.
func (n *network) findLinks() (veth, error) {
	host, err := findLink(n.host, n.hostLink())
	if err != nil {
		return veth{}, err
	}
	if host != nil && host.Type() != "veth" {
		return veth{}, fmt.Errorf("find link %s: it is a %s and not Sotto's; rename it", n.hostLink(), host.Type())
	}
	inner, err := findLink(n.inner, n.innerLink())
	if err != nil {
		return veth{}, err
	}
	if host == nil || inner == nil ||
		host.Attrs().ParentIndex != inner.Attrs().Index || inner.Attrs().ParentIndex != host.Attrs().Index ||
		!bytes.Equal(host.Attrs().HardwareAddr, macHost) || !bytes.Equal(inner.Attrs().HardwareAddr, macInner) {
		return veth{}, nil
	}
	return veth{host, inner}, nil
}

// findLink returns nil when there is no such link.
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

// addLinks makes the pair, its inner end inside the namespace from the start,
// after removing halves that are in its way.
func (n *network) addLinks() error {
	if err := errors.Join(
		removeLinks(n.host, n.hostLink(), n.innerLink()), removeLinks(n.inner, n.innerLink()),
	); err != nil {
		return err
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU, attrs.HardwareAddr = n.hostLink(), linkMTU, macHost
	err := n.host.LinkAdd(&netlink.Veth{
		LinkAttrs: attrs, PeerName: n.innerLink(), PeerMTU: linkMTU, PeerHardwareAddr: macInner,
		PeerNamespace: netlink.NsFd(n.ns.Fd()),
	})
	if err != nil {
		return fmt.Errorf("make link %s: %w", n.hostLink(), err)
	}
	return nil
}

// removeLinks removes the veths among the links named; with one end its other
// end goes too. What is not there, or no veth and so not Sotto's, is no error.
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

// checkAdopted refuses a namespace that somebody else uses under the name.
func (n *network) checkAdopted(inner *netlink.Handle) error {
	links, err := inner.LinkList()
	if err != nil {
		return fmt.Errorf("list links in namespace %s: %w", n.cfg.Name, err)
	}
	for _, l := range links {
		a := l.Attrs()
		// Links that every new namespace has (tunl0, sit0) are down.
		if a.Flags&net.FlagUp != 0 && a.Flags&net.FlagLoopback == 0 && a.Name != n.innerLink() {
			return fmt.Errorf("adopt namespace %s: link %s in it is not Sotto's; "+
				"rename that namespace or delete it with: ip netns del %s", n.cfg.Name, a.Name, n.cfg.Name)
		}
	}
	return nil
}

// hostSysctls is what the host's end needs. A question mark marks what may be
// missing: IPv6 as a whole, or a setting younger than the kernel.
func hostSysctls(link string) []string {
	v6 := "?net/ipv6/conf/" + link
	return []string{
		v6 + "/disable_ipv6", "0", v6 + "/accept_dad", "0", v6 + "/accept_ra", "0", v6 + "/addr_gen_mode", "1",
	}
}

// innerSysctls is what the namespace and its end of the link need.
func innerSysctls(link string) []string {
	v4, v6 := "net/ipv4/conf/", "?net/ipv6/conf/"
	return append(hostSysctls(link),
		// First, because a change of it resets others. New namespaces start
		// with the host's IPv4 settings, and a router's has it on.
		"net/ipv4/ip_forward", "0",
		v4+"all/rp_filter", "0", v4+"default/rp_filter", "0", v4+link+"/rp_filter", "0",
		v6+"all/disable_ipv6", "0", v6+"lo/disable_ipv6", "0",
		// IPv6 lets a reply carry an AnyIP source address only with this.
		"net/ipv4/ip_nonlocal_bind", "1", "?net/ipv6/ip_nonlocal_bind", "1",
		// Since 5.14: connections waiting for a listener that closes move to
		// the next one on its port, so an upgrade resets nobody.
		"?net/ipv4/tcp_migrate_req", "1",
	)
}

// setSysctls sets pairs of path and value in a namespace, writing only what
// differs.
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

// writeSysctl writes by a procfs of its own, which nobody else sees: in a container the
// one at /proc is mounted read-only in parts.
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

// kernelHas6 tells whether this kernel has IPv6.
func kernelHas6() bool {
	_, err := os.Stat("/proc/sys/net/ipv6")
	return err == nil
}
