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
	// settle is the pause after each look at the ruleset: a firewall that is loaded
	// by many commands causes few looks. The first event is acted on at once, since
	// queries are translated until then.
	settle = 50 * time.Millisecond

	// legacyCheck is how often iptables-legacy is looked at, which has no events.
	legacyCheck = 500 * time.Millisecond

	// retry is the pause after an Ensure that failed.
	retry = time.Second

	// fullCheck is how often the ruleset is looked at without an event.
	fullCheck = time.Minute
)

// Run calls Ensure at once, whenever the host's nat chains or the table change, and
// now and then, until ctx ends; then it returns nil.
func (t *Table) Run(ctx context.Context) error {
	sock, err := t.subscribe()
	if err != nil {
		t.cfg.Log.Debug("no nftables events", "err", err) // Ensure fails for the same reason, and says so
	}
	g, ctx := errgroup.WithContext(ctx)
	events := make(chan struct{}, 1) // holds that there was one since the last look
	t.noteAdded()                    // there may have been chains since the last Ensure, and no event tells of them
	if sock != nil {
		context.AfterFunc(ctx, sock.Close) // ends the read that waits
		g.Go(func() error { return t.readEvents(ctx, sock, events) })
	}
	g.Go(func() error { return t.keep(ctx, events) })
	return g.Wait()
}

// subscribe opens a socket for the changes of the ruleset.
func (t *Table) subscribe() (sock *nl.NetlinkSocket, err error) {
	err = t.home.Do(func() (err error) {
		sock, err = nl.Subscribe(unix.NETLINK_NETFILTER, unix.NFNLGRP_NFTABLES)
		return err
	})
	return sock, err
}

// readEvents reports the events that matter until ctx ends.
func (t *Table) readEvents(ctx context.Context, sock *nl.NetlinkSocket, events chan<- struct{}) error {
	for {
		msgs, from, err := sock.Receive()
		if ctx.Err() != nil {
			return nil
		}
		// More came than the socket holds: what was lost may have mattered.
		lost := errors.Is(err, unix.ENOBUFS)
		if err != nil && !lost && !errors.Is(err, unix.EINTR) {
			return fmt.Errorf("read nftables events: %w", err)
		}
		if err == nil && from.Pid != 0 {
			continue // not from the kernel
		}
		hit := lost
		if lost {
			t.noteAdded()
		}
		for _, m := range msgs {
			hit = t.matters(m) || hit
		}
		if hit {
			select {
			case events <- struct{}{}:
			default: // one is waiting already
			}
		}
	}
}

// matters reports whether a change may call for another table: of a nat chain, or of
// the table itself. All others are ignored, so that the thousands of rules that a
// cluster's proxy writes cost nothing.
func (t *Table) matters(m syscall.NetlinkMessage) bool {
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
		case unix.NFTA_CHAIN_TABLE: // the table's name in all messages but one, which has a number
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
		t.noteAdded()
		return true
	case unix.NFT_MSG_DELCHAIN: // newer kernels leave the type out
		t.mu.Lock()
		defer t.mu.Unlock()
		return t.foreign[key]
	}
	return false
}

// noteAdded has the next Ensure take into account that chains were added.
func (t *Table) noteAdded() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.added = true
}

// keep calls Ensure whenever something happened and now and then.
func (t *Table) keep(ctx context.Context, events <-chan struct{}) error {
	legacyTick, full := time.NewTicker(legacyCheck), time.NewTicker(fullCheck)
	defer legacyTick.Stop()
	defer full.Stop()
	failed := ""
	for {
		legacy := t.legacy()
		failed = t.look(failed)
		wait := settle
		if failed != "" {
			wait = retry
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

// legacy reads which families iptables-legacy translates.
func (t *Table) legacy() (has map[nftables.TableFamily]bool) {
	_ = t.home.Do(func() error { has = readLegacy(); return nil }) // what cannot be read is not there
	return has
}

// look calls Ensure and returns the text of its error, which is logged unless it is
// the same as the last.
func (t *Table) look(last string) string {
	err := t.Ensure()
	if err == nil {
		return ""
	}
	if err.Error() != last {
		t.cfg.Log.Warn("cannot exempt virtual addresses from the address translation of this host; "+
			"a query that a nat rule redirects is not answered until it is done", "err", err)
	}
	return err.Error()
}
