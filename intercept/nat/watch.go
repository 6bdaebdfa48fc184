// SPDX-License-Identifier: Apache-2.0

package nat

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"syscall"
	"time"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

const (
	// settle is the pause after each Ensure, so that a firewall that is loaded by many commands
	// causes only a few. The first event is handled at once, because queries are translated
	// until then.
	settle = 50 * time.Millisecond

	// legacyInterval is the time between checks of iptables-legacy, which has no events.
	legacyInterval = 500 * time.Millisecond

	// retryDelay is the pause after a failed Ensure.
	retryDelay = time.Second

	// fullInterval is the time between calls of Ensure without an event.
	fullInterval = time.Minute
)

// Run calls Ensure at once, whenever the host's nat chains or the table change, and
// periodically. It returns nil when ctx ends.
func (t *Table) Run(ctx context.Context) error {
	sock, err := t.subscribe()
	if err != nil {
		t.cfg.Log.Debug("no nftables events", "err", err) // Ensure fails for the same reason, and logs it
	}
	g, ctx := errgroup.WithContext(ctx)
	events := make(chan struct{}, 1) // not empty: there were events since the last Ensure
	t.setAdded()                     // no event reports chains that were added between the last Ensure and now
	if sock != nil {
		context.AfterFunc(ctx, sock.Close) // ends a blocked read
		g.Go(func() error { return t.readEvents(ctx, sock, events) })
	}
	g.Go(func() error { return t.reconcileLoop(ctx, events) })
	return g.Wait()
}

// subscribe opens a socket that receives changes of the ruleset.
func (t *Table) subscribe() (sock *nl.NetlinkSocket, err error) {
	err = t.home.Do(func() (err error) {
		sock, err = nl.Subscribe(unix.NETLINK_NETFILTER, unix.NFNLGRP_NFTABLES)
		return err
	})
	return sock, err
}

// readEvents signals relevant events until ctx ends.
func (t *Table) readEvents(ctx context.Context, sock *nl.NetlinkSocket, events chan<- struct{}) error {
	for {
		msgs, from, err := sock.Receive()
		if ctx.Err() != nil {
			return nil
		}
		// The socket buffer overflowed: relevant events may have been lost.
		lost := errors.Is(err, unix.ENOBUFS)
		if err != nil && !lost && !errors.Is(err, unix.EINTR) {
			return fmt.Errorf("read nftables events: %w", err)
		}
		if err == nil && from.Pid != 0 {
			continue // not from the kernel
		}
		hit := lost
		if lost {
			t.setAdded()
		}
		for _, m := range msgs {
			hit = t.isRelevant(m) || hit
		}
		if hit {
			select {
			case events <- struct{}{}:
			default: // one is pending already
			}
		}
	}
}

// isRelevant reports whether a change may require a change of the table: a change of a nat
// chain, or of the table itself. All others are ignored, so that the thousands of rules of a
// cluster's proxy cost nothing.
func (t *Table) isRelevant(m syscall.NetlinkMessage) bool {
	const genMessage = 4 // struct nfgenmsg, whose first byte is the family
	if m.Header.Type>>8 != unix.NFNL_SUBSYS_NFTABLES || len(m.Data) < genMessage {
		return false
	}
	attrs, err := nl.ParseRouteAttr(m.Data[genMessage:])
	if err != nil {
		return true
	}
	key := chainKey{family: nftables.TableFamily(m.Data[0])}
	kind := ""
	for _, a := range attrs {
		switch a.Attr.Type {
		case unix.NFTA_CHAIN_TABLE: // in all messages except one the table's name; in that a number
			key.table = unix.ByteSliceToString(a.Value)
		case unix.NFTA_CHAIN_NAME:
			key.chain = unix.ByteSliceToString(a.Value)
		case unix.NFTA_CHAIN_TYPE:
			kind = unix.ByteSliceToString(a.Value)
		}
	}
	if key.table == t.name {
		return true
	}
	switch m.Header.Type & 0xff {
	case unix.NFT_MSG_NEWCHAIN:
		if kind != string(nftables.ChainTypeNAT) {
			return false
		}
		t.setAdded()
		return true
	case unix.NFT_MSG_DELCHAIN: // newer kernels omit the type
		t.mu.Lock()
		defer t.mu.Unlock()
		return t.foreign[key]
	}
	return false
}

// setAdded records that chains may have been added since the last Ensure.
func (t *Table) setAdded() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.added = true
}

// reconcileLoop calls Ensure after events and periodically, until ctx ends.
func (t *Table) reconcileLoop(ctx context.Context, events <-chan struct{}) error {
	legacyTick, full := time.NewTicker(legacyInterval), time.NewTicker(fullInterval)
	defer legacyTick.Stop()
	defer full.Stop()
	failed := ""
	for {
		legacy := t.legacy()
		failed = t.reconcile(failed)
		wait := settle
		if failed != "" {
			wait = retryDelay
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(wait):
		}
		if failed != "" {
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
			case <-legacyTick.C:
				idle = !t.retiring() && maps.Equal(legacy, t.legacy())
			}
		}
	}
}

// legacy returns the families that iptables-legacy translates.
func (t *Table) legacy() (has map[nftables.TableFamily]bool) {
	_ = t.home.Do(func() error { has = readLegacy(); return nil }) // in case of an error there is none
	return has
}

// reconcile calls Ensure and returns the text of its error. It logs the error unless the text
// is the same as last.
func (t *Table) reconcile(last string) string {
	err := t.Ensure()
	if err == nil {
		return ""
	}
	if err.Error() != last {
		t.cfg.Log.Warn("cannot exempt virtual addresses from the NAT of this host; "+
			"queries that a nat rule redirects are not answered until they are exempted", "err", err)
	}
	return err.Error()
}
