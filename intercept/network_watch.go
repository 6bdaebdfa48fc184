// SPDX-License-Identifier: Apache-2.0

package intercept

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"syscall"
	"time"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"sotto/internal/netns"
)

const (
	// settle is how long after an event the network is looked at: long enough
	// that a burst of them (an interface coming up sends a dozen) is one look,
	// short enough that a repair is done well within a second.
	settle = 50 * time.Millisecond

	// nameCheck is how often the name of the namespace is looked at. Netlink
	// does not tell when it goes.
	nameCheck = 500 * time.Millisecond

	// retry is the pause after an ensure that failed, events or none, so that a
	// quarrel with another program over a route never runs hot.
	retry = time.Second

	// fullCheck is how often everything is looked at without an event. It finds
	// what has none here: a neighbour or a sysctl that somebody changed.
	fullCheck = 10 * time.Second
)

// run keeps the network as ensure made it until ctx ends; then it returns nil.
// What somebody else deletes or changes is repaired within a second and logged.
func (n *network) run(ctx context.Context) error {
	n.mu.Lock()
	ns := n.ns
	n.mu.Unlock()
	if ns == nil {
		return errNetworkClosed
	}
	n.takeRepairs() // what was made so far was no repair
	// Subscribed before the first look below: what happens before is seen by
	// the look, what happens after by its event.
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
	context.AfterFunc(ctx, func() { // ends the reads that wait
		host.Close()
		inside.Close()
	})
	events := make(chan struct{}, 1) // holds "there was one since you looked"
	anything := func(syscall.NetlinkMessage) bool { return true }
	g.Go(func() error { return readEvents(ctx, host, n.concernsHost, events) })
	g.Go(func() error { return readEvents(ctx, inside, anything, events) })
	g.Go(func() error { return n.keep(ctx, events) })
	return g.Wait()
}

// subscribe opens a netlink socket that hears of links, addresses, routes and
// rules in a namespace.
func subscribe(at *netns.NS) (*nl.NetlinkSocket, error) {
	var sock *nl.NetlinkSocket
	err := at.Do(func() (err error) {
		sock, err = nl.Subscribe(unix.NETLINK_ROUTE,
			unix.RTNLGRP_LINK, unix.RTNLGRP_IPV4_IFADDR, unix.RTNLGRP_IPV6_IFADDR,
			unix.RTNLGRP_IPV4_ROUTE, unix.RTNLGRP_IPV6_ROUTE, unix.RTNLGRP_IPV4_RULE, unix.RTNLGRP_IPV6_RULE)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("subscribe to netlink events: %w", err)
	}
	return sock, nil
}

// readEvents reports events that concern the network until ctx ends.
func readEvents(ctx context.Context, sock *nl.NetlinkSocket, relevant func(syscall.NetlinkMessage) bool, events chan<- struct{}) error {
	for {
		msgs, from, err := sock.Receive()
		if ctx.Err() != nil {
			return nil
		}
		// More came than the socket holds: what was lost may have concerned us.
		hit := errors.Is(err, unix.ENOBUFS)
		if err != nil && !hit && !errors.Is(err, unix.EINTR) {
			return fmt.Errorf("read netlink events: %w", err)
		}
		if err == nil && from.Pid != 0 {
			continue // only the kernel's word counts
		}
		for _, m := range msgs {
			hit = hit || relevant(m)
		}
		if hit {
			select {
			case events <- struct{}{}:
			default: // one is waiting already
			}
		}
	}
}

// keep calls ensure whenever something happened and now and then.
func (n *network) keep(ctx context.Context, events <-chan struct{}) error {
	names, full := time.NewTicker(nameCheck), time.NewTicker(fullCheck)
	defer names.Stop()
	defer full.Stop()
	failed := ""
	wait := time.Duration(0) // the first look is at once
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(wait):
		}
		failed = n.look(failed)
		wait = settle
		if failed != "" {
			wait = retry
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
				idle = n.named()
			}
		}
	}
}

// look calls ensure once and tells what it did. It returns its error's text,
// which is logged only when it is another than the last, or "".
func (n *network) look(last string) string {
	n.mu.Lock()
	before := n.way
	n.mu.Unlock()
	err := n.ensure()
	if n.cfg.OnLook != nil {
		n.cfg.OnLook()
	}
	if made := n.takeRepairs(); len(made) > 0 {
		n.log.Warn("repaired the network that somebody changed", "namespace", n.cfg.Name, "repaired", strings.Join(made, ", "))
	}
	n.mu.Lock()
	after := n.way
	n.mu.Unlock()
	if after != before {
		n.log.Debug("the way out changed", "ipv4", after.v4.src, "ipv6", after.v6.src)
		if n.cfg.OnChange != nil {
			n.cfg.OnChange()
		}
	}
	if err == nil || errors.Is(err, errNetworkClosed) {
		return ""
	}
	if err.Error() != last {
		n.log.Warn("cannot repair the network; queries fail until it is", "namespace", n.cfg.Name, "err", err)
	}
	return err.Error()
}

// concernsHost tells whether a change on the host can concern the network: a
// link or a rule, an address that could be a source, a route that could be a
// default one or lead to the prefixes. All others are ignored, so that the
// thousands of routes of a routing daemon cost nothing.
func (n *network) concernsHost(m syscall.NetlinkMessage) bool {
	switch m.Header.Type {
	case unix.RTM_NEWLINK, unix.RTM_DELLINK, unix.RTM_NEWRULE, unix.RTM_DELRULE:
		return true
	case unix.RTM_NEWADDR, unix.RTM_DELADDR:
		return len(m.Data) >= unix.SizeofIfAddrmsg && m.Data[3] != unix.RT_SCOPE_LINK // ifa_scope
	case unix.RTM_NEWROUTE, unix.RTM_DELROUTE:
		return n.concernsRoute(m.Data)
	}
	return false
}

func (n *network) concernsRoute(data []byte) bool {
	if len(data) < unix.SizeofRtMsg {
		return false
	}
	msg := nl.DeserializeRtMsg(data)
	if msg.Flags&unix.RTM_F_CLONED != 0 {
		return false // a cached look-up of IPv6
	}
	// Two halves (0.0.0.0/1) are how VPN clients write a default route.
	if msg.Dst_len <= 1 || msg.Protocol == uint8(routeProtocol) {
		return true
	}
	attrs, err := nl.ParseRouteAttr(data[unix.SizeofRtMsg:])
	if err != nil {
		return true // better one look too many
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
