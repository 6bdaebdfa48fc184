// SPDX-License-Identifier: Apache-2.0

package network

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"sotto/internal/netns"
)

const (
	// settle is the time from an event to the reconciliation: long enough to handle a burst of
	// events at once (an interface that is set up causes a dozen), and short enough to finish
	// a repair well within a second.
	settle = 50 * time.Millisecond

	// nameInterval is the time between checks of the namespace's name. There is no netlink
	// event when it is removed.
	nameInterval = 500 * time.Millisecond

	// retryDelay is the pause after a failed reconciliation, whether there are events or not,
	// so that a conflict with another program over a route never becomes a busy loop.
	retryDelay = time.Second

	// fullInterval is the time between reconciliations without an event. They repair what
	// causes no event here: a changed neighbour entry or sysctl.
	fullInterval = 10 * time.Second
)

// Run repairs the network until ctx ends, then it returns nil. What other programs delete or
// change is repaired within a second and logged.
func (n *Network) Run(ctx context.Context) error {
	n.mu.Lock()
	ns := n.ns
	n.mu.Unlock()
	if ns == nil {
		return ErrClosed
	}
	n.takeRepairs() // what was made so far was not a repair
	// The subscription comes before the first reconciliation below: that handles all earlier
	// changes, and events report all later ones.
	host, err := subscribe(n.home)
	if err != nil {
		return err
	}
	inside, err := subscribe(ns)
	if err != nil {
		host.Close()
		return err
	}
	g, ctx := errgroup.WithContext(ctx)
	context.AfterFunc(ctx, func() { // ends blocked reads
		host.Close()
		inside.Close()
	})
	events := make(chan struct{}, 1) // not empty: there were events since the last reconciliation
	anything := func(syscall.NetlinkMessage) bool { return true }
	g.Go(func() error { return readEvents(ctx, host, n.isRelevant, events) })
	g.Go(func() error { return readEvents(ctx, inside, anything, events) })
	g.Go(func() error { return n.reconcileLoop(ctx, events) })
	return g.Wait()
}

// subscribe opens a netlink socket that receives events of links, addresses, routes, rules and
// IPv4 settings in a namespace.
func subscribe(at *netns.NS) (*nl.NetlinkSocket, error) {
	var sock *nl.NetlinkSocket
	err := at.Do(func() (err error) {
		sock, err = nl.Subscribe(unix.NETLINK_ROUTE,
			unix.RTNLGRP_LINK, unix.RTNLGRP_IPV4_IFADDR, unix.RTNLGRP_IPV6_IFADDR,
			unix.RTNLGRP_IPV4_ROUTE, unix.RTNLGRP_IPV6_ROUTE, unix.RTNLGRP_IPV4_RULE, unix.RTNLGRP_IPV6_RULE,
			unix.RTNLGRP_IPV4_NETCONF)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("subscribe to netlink events: %w", err)
	}
	return sock, nil
}

// readEvents signals events that are relevant to the network, until ctx ends.
func readEvents(ctx context.Context, sock *nl.NetlinkSocket, relevant func(syscall.NetlinkMessage) bool, events chan<- struct{}) error {
	for {
		msgs, from, err := sock.Receive()
		if ctx.Err() != nil {
			return nil
		}
		// The socket buffer overflowed: relevant events may have been lost.
		hit := errors.Is(err, unix.ENOBUFS)
		if err != nil && !hit && !errors.Is(err, unix.EINTR) {
			return fmt.Errorf("read netlink events: %w", err)
		}
		if err == nil && from.Pid != 0 {
			continue // not from the kernel
		}
		for _, m := range msgs {
			hit = hit || relevant(m)
		}
		if hit {
			select {
			case events <- struct{}{}:
			default: // one is pending already
			}
		}
	}
}

// reconcileLoop reconciles after events and periodically, until ctx ends.
func (n *Network) reconcileLoop(ctx context.Context, events <-chan struct{}) error {
	names, full := time.NewTicker(nameInterval), time.NewTicker(fullInterval)
	defer names.Stop()
	defer full.Stop()
	failed := ""
	wait := time.Duration(0) // the first time is at once
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(wait):
		}
		failed = n.reconcile(failed)
		wait = settle
		if failed != "" {
			wait = retryDelay
			continue
		}
		for idle := true; idle; {
			select {
			case <-ctx.Done():
				return nil
			case <-events:
				idle = false
			case <-full.C:
				idle = false
			case <-names.C:
				idle = n.nameIsFine()
			}
		}
	}
}

// reconcile calls Ensure once and logs what it repaired. It returns the text of its error,
// or "", and logs the error only if the text differs from last.
func (n *Network) reconcile(last string) string {
	n.mu.Lock()
	before := n.defaults
	n.mu.Unlock()
	err := n.Ensure()
	if n.cfg.OnReconcile != nil {
		n.cfg.OnReconcile()
	}
	if made := n.takeRepairs(); len(made) > 0 {
		n.log.Warn("network repaired: another program changed it", "namespace", n.cfg.Name, "repaired", strings.Join(made, ", "))
	}
	n.mu.Lock()
	after := n.defaults
	n.mu.Unlock()
	if after != before {
		n.log.Debug("default routes changed", "ipv4", after.v4.src, "ipv6", after.v6.src)
		if n.cfg.OnChange != nil {
			n.cfg.OnChange()
		}
	}
	if err == nil || errors.Is(err, ErrClosed) {
		return ""
	}
	if err.Error() != last {
		n.log.Warn("cannot repair the network; queries fail until it is repaired", "namespace", n.cfg.Name, "err", err)
	}
	return err.Error()
}

// isRelevant reports whether a change on the host can affect the network: a change of a link,
// a rule or a reverse path filter, of an address that could be a source address, or of a route
// that could be a default route or overlap a prefix. The thousands of other routes of a routing daemon cost
// nothing.
func (n *Network) isRelevant(m syscall.NetlinkMessage) bool {
	switch m.Header.Type {
	case unix.RTM_NEWLINK, unix.RTM_DELLINK, unix.RTM_NEWRULE, unix.RTM_DELRULE:
		return true
	case unix.RTM_NEWADDR, unix.RTM_DELADDR:
		return len(m.Data) >= unix.SizeofIfAddrmsg && m.Data[3] != unix.RT_SCOPE_LINK // ifa_scope
	case unix.RTM_NEWROUTE, unix.RTM_DELROUTE:
		return n.isRelevantRoute(m.Data)
	case unix.RTM_NEWNETCONF:
		return isReversePathFilter(m.Data)
	}
	return false
}

// netconfRPFilter is NETCONFA_RP_FILTER of <linux/netconf.h>.
const netconfRPFilter = 3

// isReversePathFilter reports whether a change of IPv4 settings is one of rp_filter, on which
// the treatment of sockets that are bound to an interface depends.
func isReversePathFilter(data []byte) bool {
	if len(data) < unix.NLMSG_ALIGNTO { // struct netconfmsg, padded
		return false
	}
	attrs, err := nl.ParseRouteAttr(data[unix.NLMSG_ALIGNTO:])
	return err != nil || slices.ContainsFunc(attrs, func(a syscall.NetlinkRouteAttr) bool {
		return a.Attr.Type == netconfRPFilter
	})
}

func (n *Network) isRelevantRoute(data []byte) bool {
	if len(data) < unix.SizeofRtMsg {
		return false
	}
	msg := nl.DeserializeRtMsg(data)
	if msg.Flags&unix.RTM_F_CLONED != 0 {
		return false // an IPv6 exception: a cached lookup
	}
	// VPN clients write a default route as two halves (0.0.0.0/1).
	if msg.Dst_len <= 1 || msg.Protocol == uint8(routeProtocol) {
		return true
	}
	attrs, err := nl.ParseRouteAttr(data[unix.SizeofRtMsg:])
	if err != nil {
		return true // reconciling once too often is harmless
	}
	for _, a := range attrs {
		if a.Attr.Type != unix.RTA_DST {
			continue
		}
		addr, _ := netip.AddrFromSlice(a.Value)
		dst := netip.PrefixFrom(addr, int(msg.Dst_len))
		return dst.Overlaps(n.cfg.Prefix4) || dst.Overlaps(n.cfg.Prefix6)
	}
	return true
}
