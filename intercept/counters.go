// SPDX-License-Identifier: Apache-2.0

package intercept

import (
	"fmt"

	"sotto/bpf"
)

// Counters returns how often each verdict was given since the hooks' maps were
// made, which may have been an earlier process.
func (i *Instance) Counters() map[string]uint64 {
	all, err := i.kernel.counters()
	if err != nil {
		i.cfg.Log.Warn("cannot read the counters", "err", err)
	}
	return all
}

// counters reads those that it can.
func (k *kernel) counters() (map[string]uint64, error) {
	out := make(map[string]uint64, len(counterNames))
	for at, name := range counterNames {
		var perCPU []uint64
		if err := k.Counters.Lookup(uint32(at), &perCPU); err != nil {
			return out, fmt.Errorf("read counter %s: %w", name, err)
		}
		for _, n := range perCPU {
			out[name] += n
		}
	}
	return out, nil
}

// counterNames are the names of enum counter in bpf/counters.h.
var counterNames = [bpf.SottoCounterCOUNTERS]string{
	bpf.SottoCounterCOUNT_CONNECT:        "connect",
	bpf.SottoCounterCOUNT_SEND:           "send",
	bpf.SottoCounterCOUNT_REPLY:          "reply",
	bpf.SottoCounterCOUNT_PEER:           "peer",
	bpf.SottoCounterCOUNT_OWN:            "own",
	bpf.SottoCounterCOUNT_EXCLUDED:       "excluded",
	bpf.SottoCounterCOUNT_SLOT_NEW:       "slot_new",
	bpf.SottoCounterCOUNT_SLOT_FREED:     "slot_freed",
	bpf.SottoCounterCOUNT_SLOT_COLLECTED: "slot_collected",
	bpf.SottoCounterCOUNT_SLOT_RACE:      "slot_race",
	bpf.SottoCounterCOUNT_NO_SLOT:        "no_slot",
	bpf.SottoCounterCOUNT_OVER_QUOTA:     "over_quota",
	bpf.SottoCounterCOUNT_NO_MEMORY:      "no_memory",
	bpf.SottoCounterCOUNT_UNKNOWN:        "unknown",
	bpf.SottoCounterCOUNT_BOUND:          "bound",
	bpf.SottoCounterCOUNT_OPEN:           "open",

	bpf.SottoCounterCOUNT_STOPPED_SOCKET:    "stopped_socket",
	bpf.SottoCounterCOUNT_STOPPED_PACKET:    "stopped_packet",
	bpf.SottoCounterCOUNT_STOPPED_FORWARDED: "stopped_forwarded",
	bpf.SottoCounterCOUNT_STOPPED_SILENT:    "stopped_silent",
	bpf.SottoCounterCOUNT_STOPPED_OPAQUE:    "stopped_opaque",
	bpf.SottoCounterCOUNT_REDIRECTED_IN:     "redirected_in",
	bpf.SottoCounterCOUNT_REDIRECTED_BACK:   "redirected_back",
	bpf.SottoCounterCOUNT_ESCAPED:           "escaped",
	bpf.SottoCounterCOUNT_OUTSIDE:           "outside",
	bpf.SottoCounterCOUNT_FOREIGN:           "foreign",

	bpf.SottoCounterCOUNT_GROUP:              "group",
	bpf.SottoCounterCOUNT_STOPPED_GROUP:      "stopped_group",
	bpf.SottoCounterCOUNT_STOPPED_UNHELD:     "stopped_unheld",
	bpf.SottoCounterCOUNT_STOPPED_MADE:       "stopped_made",
	bpf.SottoCounterCOUNT_STOPPED_TRANSLATED: "stopped_translated",
	bpf.SottoCounterCOUNT_SLOT_RECOUNTED:     "slot_recounted",
	bpf.SottoCounterCOUNT_REFUSED_MPTCP:      "refused_mptcp",
}

// notable are the counters that a person would want to hear of: a program's queries
// fail, or somebody tries something.
var notable = []struct{ name, means string }{
	{"stopped_socket", "plain queries of raw sockets, or of ones from before the seal"},
	{"stopped_packet", "plain queries of packet sockets"},
	{"stopped_forwarded", "plain queries that this host forwards for others, such as virtual machines"},
	{"stopped_opaque", "packets whose headers hide what they carry"},
	{"outside", "packets from outside, for or from virtual addresses"},
	{"escaped", "packets about to leave, for or from virtual addresses"},
	{"foreign", "packets to virtual addresses of other workloads"},
	{"group", "queries to multicast and broadcast addresses"},
	{"stopped_group", "queries to multicast and broadcast addresses"},
	{"stopped_unheld", "packets to virtual addresses that their sockets do not hold"},
	{"stopped_made", "packets to virtual addresses that raw and packet sockets made up"},
	{"stopped_translated", "queries that the NAT of this host sends elsewhere; exempt the virtual prefix from that rule"},
	{"refused_mptcp", "MPTCP connections, whose slots this kernel cannot count"},
	{"no_slot", "queries for which no virtual address was free"},
	{"over_quota", "queries of a workload that holds its share of virtual addresses"},
	{"no_memory", "queries for whose sockets the kernel had no memory"},
	{"open", "queries that left while there was no sign of life"},
}
