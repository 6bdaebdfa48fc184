// SPDX-License-Identifier: Apache-2.0

package historytest

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"sotto/intercept/cgroup"
	"sotto/intercept/clienttest"
	"sotto/intercept/network"
	"sotto/internal/netlab"
	"sotto/internal/netlab/labtest"
)

const (
	listenerPort = 53

	// removedSuffix ends the path of a removed cgroup; see Instance.Workload.
	removedSuffix = "(removed)"

	// poolSize is the number of free slots at a start. It is small, so that slots are reused
	// soon.
	poolSize = 24

	// linger is long enough for a reply, and short enough for a test that waits for it.
	linger = 50 * time.Millisecond
)

// runner executes histories. It has a host with a container, a LAN with nameservers, an
// instance that starts and stops, and the model of all.
type runner struct {
	t                    *testing.T
	lab                  *netlab.Lab
	host, container, lan *netlab.Host
	groups               [groupCount]*netlab.Cgroup
	subject              Subject
	settings             Settings
	dir                  string     // of inboxes
	inst                 Instance   // nil: none is running
	responder            *responder // of the instance
	recording            *recording
	fences               [2]net.Conn
	clients              map[string]*clienttest.Client
	model                *model
	lastNumber           int // the last number that was used
	timeout              time.Duration

	mu       sync.Mutex
	received []received
	arrived  map[int]bool
	messages int // received in total

	lookups sync.RWMutex
	answers Instance // the instance whose slots the responder reads; nil: none

	without                  map[string]bool // names of step kinds that are left out
	asked, answered, stormed int             // queries, for the report
}

func newRunner(t *testing.T, subject Subject) *runner {
	t.Helper()
	w := &runner{t: t, subject: subject, clients: make(map[string]*clienttest.Client), arrived: make(map[int]bool), without: make(map[string]bool), model: newModel(), timeout: 10 * time.Second}
	w.lab, w.host, w.lan = labtest.LAN(t)
	w.container = labtest.Containers(t, w.lab, w.host, "c")[0]
	for g, name := range []string{"a", "b"} {
		w.groups[g] = w.mustCreate(w.lab.Cgroup(name))
	}
	w.groups[groupInner] = w.mustCreate(w.lab.Below(w.groups[groupA], "inner"))
	w.dir = t.TempDir()
	w.settings.Linger = linger
	// Prefixes that only this process uses: an instance of another test on this machine destroys
	// sockets that are connected to its own prefixes in all network namespaces.
	own := byte(os.Getpid() % 252)
	w.settings.Prefix4 = netip.PrefixFrom(netip.AddrFrom4([4]byte{198, 18, own, 0}), 24)
	w.settings.Prefix6 = netip.MustParsePrefix(fmt.Sprintf("fd73:6f74:746f:f%02x::/64", own))
	w.serveLAN()
	w.recording = startRecording(t, w.host, w.lan)
	err := w.host.Do(func() (err error) {
		for n, prefix := range []netip.Prefix{w.settings.Prefix4, w.settings.Prefix6} {
			var c *net.UDPConn
			to := netip.AddrPortFrom(network.NthAddr(prefix, network.ReservedProbe), listenerPort)
			// Not connected, because the instance and its routes are added later.
			if c, err = net.ListenUDP("udp", nil); err != nil {
				return err
			}
			w.fences[n] = fence{c, to}
			t.Cleanup(func() { _ = c.Close() })
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.end)
	return w
}

// fence sends to a virtual address that is not a slot.
type fence struct {
	*net.UDPConn
	to netip.AddrPort
}

func (f fence) Write(b []byte) (int, error) { return f.WriteToUDPAddrPort(b, f.to) }

func (w *runner) mustCreate(g *netlab.Cgroup, err error) *netlab.Cgroup {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
	return g
}

// serveLAN answers queries that leave the host, on the LAN.
func (w *runner) serveLAN() {
	w.t.Helper()
	var addrs []string
	for g := range groupCount {
		for n := range nameservers {
			addrs = append(addrs, nameserver(g, n, false).String()+"/32", nameserver(g, n, true).String()+"/128")
		}
	}
	for _, addr := range addrs {
		if slices.Contains(netlab.Nameservers, strings.Split(addr, "/")[0]) {
			continue
		}
		if err := w.lan.Addr("lo", addr); err != nil {
			w.t.Fatal(err)
		}
	}
	all := func(tag byte, _ int) bool { return tag == queryTag }
	a, err := startResponder(plainTag, w.lan.Do, func(netip.Addr) func(byte, int) bool { return all })
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(a.close)
}

// seen is the function of the listener's responder: it looks up the origin and the workload of
// a local address.
func (w *runner) seen(local netip.Addr) func(tag byte, number int) bool {
	h := received{local: local}
	w.lookups.RLock()
	if inst := w.answers; inst != nil {
		if h.origin, h.known = inst.OriginOf(local); h.known {
			h.workload, h.named = inst.Workload(h.origin.CgroupID)
		}
	}
	w.lookups.RUnlock()
	return func(tag byte, number int) bool {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.arrived[number] = true
		if tag != queryTag {
			return false
		}
		h.number = number
		w.received = append(w.received, h)
		w.messages++
		return h.known
	}
}

// checkReceived checks the queries that the listener received against the model.
func (w *runner) checkReceived() {
	w.mu.Lock()
	all := w.received
	w.received = nil
	w.mu.Unlock()
	for _, h := range all {
		w.model.check(h)
	}
}

// await waits until the listener has received a message.
func (w *runner) await(number int) bool {
	for end := time.Now().Add(w.timeout); time.Now().Before(end); time.Sleep(20 * time.Microsecond) {
		w.mu.Lock()
		ok := w.arrived[number]
		w.mu.Unlock()
		if ok {
			return true
		}
	}
	return false
}

// settle waits until the listener has received all datagrams that were sent so far, which it
// reads in their order. A slot must not be reused while a datagram to it is queued.
func (w *runner) settle() {
	if w.responder == nil {
		return
	}
	for _, to := range w.fences {
		number := w.number(1)
		if _, err := to.Write(newMessage(fenceTag, number)); err != nil {
			w.t.Fatalf("fence: %v", err)
		}
		if !w.await(number) {
			w.model.violate("silent", "the listener does not answer at %v", to.(fence).to)
			return
		}
	}
}

// number returns the first of count unused numbers.
func (w *runner) number(count int) int {
	w.lastNumber += count
	return w.lastNumber - count + 1
}

// do runs a command in a process, and checks the queries that the listener received meanwhile.
func (w *runner) do(proc, format string, args ...any) string {
	got := w.clients[proc].Do(format, args...)
	w.checkReceived()
	return got
}

// join creates a cgroup for a process, and moves it there.
func (w *runner) join(proc string, group int) *workload {
	dir := filepath.Join(w.groups[group].Path, fmt.Sprintf("w%d", w.number(1)))
	if err := os.Mkdir(dir, 0o755); err != nil {
		w.t.Fatal(err)
	}
	var st unix.Stat_t
	if err := unix.Stat(dir, &st); err != nil {
		w.t.Fatal(err)
	}
	root, err := cgroup.Root()
	if err != nil {
		w.t.Fatal(err)
	}
	if got := w.do(proc, "moveself %s", dir); got != "ok" {
		w.t.Fatalf("%s moves to %s: %s", proc, dir, got)
	}
	return &workload{dir: dir, path: strings.TrimPrefix(dir, root), id: st.Ino, group: group}
}

// leave removes a cgroup after its last process has left.
func (w *runner) leave(in *workload) {
	in.removed = true
	var err error
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); time.Sleep(time.Millisecond) {
		if err = os.Remove(in.dir); err == nil {
			return
		}
	}
	w.t.Fatal(err)
}

// spawn starts a process in a cgroup of its own.
func (w *runner) spawn(proc string, group int) {
	at := w.host
	if strings.HasSuffix(proc, "b") {
		at = w.container
	}
	w.clients[proc] = clienttest.Start(w.t, at, w.groups[group])
	_ = os.Remove(w.inbox(proc))
	if got := w.do(proc, "inbox %s", w.inbox(proc)); got != "ok" {
		w.t.Fatalf("inbox of %s: %s", proc, got)
	}
	w.model.processes[proc] = &process{name: proc, in: w.join(proc, group), holds: make(map[string]bool)}
}

func (w *runner) inbox(proc string) string { return filepath.Join(w.dir, "inbox-"+proc) }

// open opens an instance for a set of cgroups.
func (w *runner) open(set sealSet) (Instance, error) {
	settings := w.settings
	for g, group := range w.groups {
		if set.has(g) {
			settings.Cgroups = append(settings.Cgroups, group.Path)
		}
	}
	var i Instance
	err := w.host.Do(func() (err error) {
		i, err = w.subject.Open(settings)
		return err
	})
	if err == nil && !i.Adopted() {
		err = shrinkPool(i)
	}
	return i, err
}

// shrinkPool removes all slots except a few from the queue of free ones.
func shrinkPool(i Instance) error {
	free, err := drainPool(i)
	if err != nil {
		return err
	}
	for _, idx := range free[:poolSize] {
		if err := i.PutFreeSlot(idx); err != nil {
			return err
		}
	}
	return nil
}

// drainPool empties the queue of free slots.
func drainPool(i Instance) (free []uint32, err error) {
	for {
		idx, ok := i.TakeFreeSlot()
		if !ok {
			return free, nil
		}
		if slices.Contains(free, idx) {
			return nil, fmt.Errorf("slot %d is in the queue twice", idx)
		}
		free = append(free, idx)
	}
}

// down removes leftovers.
func (w *runner) down() error { return w.host.Do(w.subject.Down) }

// exhausted reports whether no slot is free. Shares do not matter here, because they are
// computed from the full number of slots.
func (w *runner) exhausted() bool {
	used, _ := w.slotsUsed()
	return used >= poolSize
}

func (w *runner) slotsUsed() (used, refs int) {
	w.t.Helper()
	used, refs, err := w.inst.SlotsUsed()
	if err != nil {
		w.t.Fatal(err)
	}
	return used, refs
}

// checkFree returns an error if a slot is not free. It is called when all sockets are closed.
func (w *runner) checkFree() error {
	if err := w.inst.Collect(); err != nil {
		return err
	}
	if used, refs := w.slotsUsed(); used != 0 || refs != 0 {
		return fmt.Errorf("%d slots in use with %d references", used, refs)
	}
	if err := w.inst.CheckUnused(); err != nil {
		return err
	}
	free, err := drainPool(w.inst)
	for _, idx := range free {
		err = errors.Join(err, w.inst.PutFreeSlot(idx))
	}
	if len(free) != poolSize {
		err = errors.Join(err, fmt.Errorf("%d slots are in the queue of %d", len(free), poolSize))
	}
	return err
}
