// SPDX-License-Identifier: Apache-2.0

package intercept

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"math"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"sotto/intercept/drops"
)

// Process is a process, and the user that it runs as.
type Process struct {
	PID  uint32 // in the initial PID namespace
	UID  uint32 // real UID, in the initial user namespace
	Comm string // name of the thread, at most 15 bytes; may contain any bytes except 0
}

// watchers counts the traces. The zero value is ready for use.
type watchers struct {
	mu    sync.Mutex
	count int
	since atomic.Uint64 // when the programs started to publish; 0: they do not
}

// StartTrace makes the kernel publish, until stop is called, what it refuses and drops
// ([Config].OnDrop) and, with [Config.Attribution], the processes of queries. The process of a query
// that arrived before is unknown. Several may trace at once. Instances of commands (Ephemeral)
// publish no drops.
func (i *Instance) StartTrace() (stop func(), err error) {
	if err := i.watch(1); err != nil {
		return nil, err
	}
	return sync.OnceFunc(func() {
		if err := i.watch(-1); err != nil {
			i.cfg.Log.Debug("the kernel continues to publish queries", "err", err)
		}
	}), nil
}

// Drop is a query that the seal refused or dropped.
type Drop struct {
	Time     time.Time
	Cgroup   uint64  // ID of the workload's cgroup; 0: unknown
	Process  Process // PID 0: unknown, or not looked up (Config.Attribution)
	Protocol uint16  // IPPROTO_*

	// Src is the sender, invalid if a hook refused the query: there is no packet yet. Dst is where it
	// was sent, which may be a virtual address.
	Src, Dst netip.AddrPort
	Message  []byte // the DNS message, possibly only its start; nil if there is none that can be read

	Reason string // the name of its counter
	Means  string // the reason in words
	Passed bool   // not dropped, because the guard only counts
	Hook   bool   // refused by a hook on sockets, not dropped by the guard
	Lost   uint64 // drops before this one that are not reported, because there were too many
}

// reportDrops calls Config.OnDrop until ctx ends. Then it returns nil.
func (i *Instance) reportDrops(ctx context.Context) error {
	if i.cfg.OnDrop == nil || i.cfg.Ephemeral {
		return nil
	}
	r := drops.Reader{
		Events: i.kernel.Drops,
		Lost:   func() (uint64, error) { return i.kernel.counter(sottoCounterCOUNT_EVENT_LOST) },
		Handle: func(e drops.Event, lost uint64) {
			d := dropOf(&e, lost)
			if !i.cfg.Attribution {
				d.Process = Process{}
			}
			i.cfg.OnDrop(d)
		},
	}
	return r.Run(ctx)
}

// dropOf describes an event of the kernel.
func dropOf(e *drops.Event, lost uint64) Drop {
	d := Drop{
		Time: wallTime(e.Time), Cgroup: e.Cgroup, Process: Process{PID: e.PID, UID: e.UID, Comm: e.Comm}, Protocol: e.Protocol,
		Src: e.Src, Dst: e.Dst, Message: e.Message, Passed: e.Passed, Hook: e.Hook, Lost: lost, Reason: "unknown",
	}
	if e.Reason < uint32(len(counterNames)) {
		d.Reason = counterNames[e.Reason]
	}
	for _, c := range notable {
		if c.name == d.Reason {
			d.Means = c.means
		}
	}
	if e.Reason == uint32(sottoCounterCOUNT_BOUND) {
		d.Means = "queries of sockets that are bound to an interface"
	}
	return d
}

// watch adds to the number of watchers.
func (i *Instance) watch(n int) error {
	w := &i.watchers
	w.mu.Lock()
	defer w.mu.Unlock()
	w.count += n
	if w.count > 1 || w.count == 1 && n < 0 {
		return nil
	}
	since := uint64(0)
	if w.count == 1 {
		since = kernelTime(time.Now())
	}
	if err := i.kernel.Watch.Put(uint32(0), since); err != nil {
		w.count -= n
		return fmt.Errorf("trace queries in the kernel: %w", err)
	}
	w.since.Store(since)
	i.traceHits(since != 0)
	return nil
}

// Arrival describes a query as the listener received it.
type Arrival struct {
	Local  netip.Addr     // the virtual address
	Client netip.AddrPort // the sender
	TCP    bool
	ID     uint16    // of the message
	Time   time.Time // when it was read, with a monotonic clock reading
}

// Process returns the process that sent a query. If that is not the one that connected the
// socket, because it inherited the socket or received it, it is unknown; over TCP, and over UDP
// before Linux 6.10, it is then the one that connected. It reports false if the process is not
// known for certain:
//
//   - without [Config.Attribution] or a guard, or if it arrived before [Instance.StartTrace],
//   - if several processes use the socket, or used the same source port within two seconds,
//   - if NAT has replaced the source port, or only the address and the ID is not one of the
//     last four of that socket,
//   - if the query was forwarded by a relay, such as that of a rootless container,
//   - if it is too late: about 16,000 sockets are remembered.
//
// It makes a system call, so it is for those who look at queries, not for answering them.
func (i *Instance) Process(a Arrival) (Process, bool) {
	since := i.watchers.since.Load()
	if since == 0 {
		return Process{}, false
	}
	idx, ok := i.origins.index(a.Local)
	if !ok {
		return Process{}, false
	}
	key := sottoSenderKey{Slot: idx, Port: htons(a.Client.Port()), Protocol: unix.IPPROTO_UDP}
	if a.TCP {
		key.Protocol = unix.IPPROTO_TCP
	}
	var s sottoSender
	if err := i.kernel.Senders.Lookup(key, &s); err != nil {
		return Process{}, false
	}
	if s.Since < since || !s.covers(a.Client.Addr(), a.ID, kernelTime(a.Time)) {
		return Process{}, false
	}
	return s.Caller.process(), true
}

// senderDelay is SENDER_DELAY_NS in bpf/callers.h.
const senderDelay = 2 * time.Second

// covers reports whether a query that arrived from addr at the time at, in nanoseconds of the
// kernel's clock, was sent by s, and its process is known.
func (s *sottoSender) covers(addr netip.Addr, id uint16, at uint64) bool {
	if s.Caller.Pid == 0 || at < s.Since || at > s.Last+uint64(senderDelay) {
		return false
	}
	var b [16]byte
	for i, word := range s.Addr {
		binary.NativeEndian.PutUint32(b[4*i:], word)
	}
	if netip.AddrFrom16(b).Unmap() == addr.Unmap().WithZone("") {
		return true
	}
	return slices.Contains(s.Ids[:min(s.Sent, uint32(len(s.Ids)))], htons(id))
}

func (c *sottoCaller) process() Process {
	var comm [16]byte
	for i, word := range c.Comm {
		binary.NativeEndian.PutUint64(comm[8*i:], word)
	}
	name, _, _ := bytes.Cut(comm[:], []byte{0})
	return Process{PID: c.Pid, UID: c.Uid, Comm: string(name)}
}

// kernelTime converts a time with a monotonic clock reading to bpf_ktime_get_ns. The result is
// at most a microsecond earlier, and never later, than that time.
func kernelTime(t time.Time) uint64 {
	e := clockEpoch()
	return uint64(max(0, e.kernel+t.Sub(e.wall).Nanoseconds()))
}

// wallTime is the inverse of kernelTime.
func wallTime(kernel uint64) time.Time {
	e := clockEpoch()
	return e.wall.Add(time.Duration(int64(kernel) - e.kernel))
}

// epoch is one moment on two clocks.
type epoch struct {
	wall   time.Time // with a monotonic clock reading
	kernel int64     // CLOCK_MONOTONIC in nanoseconds, at that time or just before
}

// clockEpoch reads both clocks in immediate succession. The monotonic clock of package time is
// also CLOCK_MONOTONIC, so that their difference is constant.
var clockEpoch = sync.OnceValue(func() (best epoch) {
	gap := time.Duration(math.MaxInt64)
	for range 100 { // the process may be interrupted in between
		var ts unix.Timespec
		before := time.Now()
		if unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts) != nil {
			return epoch{wall: time.Now()} // every query is too early to be attributed
		}
		after := time.Now()
		if d := after.Sub(before); d < gap {
			gap, best = d, epoch{after, ts.Nano()}
		}
	}
	return best
})
