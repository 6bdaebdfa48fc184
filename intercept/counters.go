// SPDX-License-Identifier: Apache-2.0

package intercept

import (
	"context"
	"fmt"
	"strings"
	"time"
)

// Counters returns the number of times that each verdict occurred since the maps were made,
// possibly by an earlier process.
func (i *Instance) Counters() map[string]uint64 {
	all, err := i.kernel.counters()
	if err != nil {
		i.cfg.Log.Warn("cannot read the counters", "err", err)
	}
	return all
}

// counters reads all counters. In case of an error it returns those that it read.
func (k *kernel) counters() (map[string]uint64, error) {
	out := make(map[string]uint64, len(counterNames))
	for at, name := range counterNames {
		n, err := k.counter(sottoCounter(at))
		if err != nil {
			return out, err
		}
		out[name] = n
	}
	return out, nil
}

// counter reads one counter.
func (k *kernel) counter(at sottoCounter) (n uint64, err error) {
	var perCPU []uint64
	if err := k.Counters.Lookup(uint32(at), &perCPU); err != nil {
		return 0, fmt.Errorf("read counter %s: %w", counterNames[at], err)
	}
	for _, v := range perCPU {
		n += v
	}
	return n, nil
}

// counterNames are the names of enum counter in bpf/counters.h.
var counterNames = [sottoCounterCOUNTERS]string{
	sottoCounterCOUNT_CONNECT:        "connect",
	sottoCounterCOUNT_SEND:           "send",
	sottoCounterCOUNT_REPLY:          "reply",
	sottoCounterCOUNT_PEER:           "peer",
	sottoCounterCOUNT_OWN:            "own",
	sottoCounterCOUNT_EXCLUDED:       "excluded",
	sottoCounterCOUNT_SLOT_NEW:       "slot_new",
	sottoCounterCOUNT_SLOT_FREED:     "slot_freed",
	sottoCounterCOUNT_SLOT_COLLECTED: "slot_collected",
	sottoCounterCOUNT_SLOT_RACE:      "slot_race",
	sottoCounterCOUNT_NO_SLOT:        "no_slot",
	sottoCounterCOUNT_OVER_QUOTA:     "over_quota",
	sottoCounterCOUNT_NO_MEMORY:      "no_memory",
	sottoCounterCOUNT_UNKNOWN:        "unknown",
	sottoCounterCOUNT_BOUND:          "bound",
	sottoCounterCOUNT_OPEN:           "open",

	sottoCounterCOUNT_STOPPED_SOCKET:    "stopped_socket",
	sottoCounterCOUNT_STOPPED_PACKET:    "stopped_packet",
	sottoCounterCOUNT_STOPPED_FORWARDED: "stopped_forwarded",
	sottoCounterCOUNT_STOPPED_SILENT:    "stopped_silent",
	sottoCounterCOUNT_STOPPED_OPAQUE:    "stopped_opaque",
	sottoCounterCOUNT_REDIRECTED_IN:     "redirected_in",
	sottoCounterCOUNT_REDIRECTED_BACK:   "redirected_back",
	sottoCounterCOUNT_ESCAPED:           "escaped",
	sottoCounterCOUNT_OUTSIDE:           "outside",
	sottoCounterCOUNT_FOREIGN:           "foreign",

	sottoCounterCOUNT_GROUP:              "group",
	sottoCounterCOUNT_STOPPED_GROUP:      "stopped_group",
	sottoCounterCOUNT_STOPPED_UNHELD:     "stopped_unheld",
	sottoCounterCOUNT_STOPPED_MADE:       "stopped_made",
	sottoCounterCOUNT_STOPPED_TRANSLATED: "stopped_translated",
	sottoCounterCOUNT_SLOT_RECOUNTED:     "slot_recounted",
	sottoCounterCOUNT_REFUSED_MPTCP:      "refused_mptcp",
	sottoCounterCOUNT_LOCAL:              "local",
	sottoCounterCOUNT_BOUND_LOCAL:        "bound_local",
	sottoCounterCOUNT_ANSWER:             "answer",
	sottoCounterCOUNT_EVENT_LOST:         "event_lost",
}

// notable are the counters that an operator should know about: queries of a program fail, or
// a program tries to circumvent the seal.
var notable = []struct{ name, means string }{
	{"stopped_socket", "plain queries of raw sockets, or of sockets from before the seal"},
	{"stopped_packet", "plain queries of packet sockets"},
	{"stopped_forwarded", "plain queries that this host forwards for others, such as virtual machines"},
	{"stopped_opaque", "packets whose headers hide the transport header"},
	{"outside", "packets from outside, from or to virtual addresses"},
	{"escaped", "packets about to leave the machine, from or to virtual addresses"},
	{"foreign", "packets to virtual addresses of other workloads"},
	{"group", "queries to multicast and broadcast addresses"},
	{"stopped_group", "queries to multicast and broadcast addresses"},
	{"stopped_unheld", "packets to virtual addresses that their sockets do not hold"},
	{"stopped_made", "packets of raw and packet sockets to virtual addresses"},
	{"stopped_translated", "queries that the NAT of this host redirects; exempt the virtual prefix from that rule"},
	{"refused_mptcp", "MPTCP connections, whose references this kernel cannot count"},
	{"bound_local", "queries to local resolvers from sockets that are bound to a loopback address"},
	{"no_slot", "queries for which no virtual address was free"},
	{"over_quota", "queries of a workload that has used its share of virtual addresses"},
	{"no_memory", "queries for which the kernel had no memory"},
	{"open", "queries that left while there was no heartbeat"},
}

// reportInterval limits what a flood of stopped packets can write to the log.
const reportInterval = time.Minute

// reportCounters logs notable counters that increased, until ctx ends. Then it returns nil.
func (i *Instance) reportCounters(ctx context.Context) error {
	tick := time.NewTicker(reportInterval)
	defer tick.Stop()
	last, err := i.kernel.counters()
	if err != nil {
		return err
	}
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			last = i.report(last)
		}
	}
}

// report logs the notable counters that increased since last, and returns the current ones.
func (i *Instance) report(last map[string]uint64) map[string]uint64 {
	now, err := i.kernel.counters()
	if err != nil {
		i.cfg.Log.Warn("cannot read the counters", "err", err)
		return last
	}
	for _, c := range notable {
		n := now[c.name] - last[c.name]
		switch {
		case n == 0:
		case c.name == "open":
			i.cfg.Log.Warn("let through: "+c.means, "counter", c.name, "count", n)
		case i.cfg.Guard != GuardDrop && strings.HasPrefix(c.name, "stopped_"):
			i.cfg.Log.Warn("left in the clear: "+c.means, "counter", c.name, "count", n)
		default:
			i.cfg.Log.Warn("dropped: "+c.means, "counter", c.name, "count", n)
		}
	}
	return now
}
