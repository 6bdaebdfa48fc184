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

	// poolSize is how many slots are free at a start: few, so that each soon stands for
	// something else.
	poolSize = 24

	// historyLinger is long for a reply, and short for a test that waits for it.
	historyLinger = 50 * time.Millisecond
)

// world is what histories happen in: a host with a container, a LAN with nameservers, an
// instance that starts and stops, and the model of it all.
type world struct {
	t                    *testing.T
	lab                  *netlab.Lab
	host, container, lan *netlab.Host
	groups               [groupCount]*netlab.Cgroup
	subject              Subject
	settings             Settings
	dir                  string    // of inboxes
	inst                 Instance  // nil: none runs
	answerer             *answerer // of the instance
	tape                 *tape
	fences               [2]net.Conn
	clients              map[string]*clienttest.Client
	model                *model
	serial               int // makes names and numbers unique
	patience             time.Duration

	mu       sync.Mutex
	heard    []heard
	arrived  map[int]bool
	answers  Instance // whose slots the answerer reads
	messages int      // heard in all

	without                  map[string]bool // kinds of steps that are left out
	asked, answered, stormed int             // queries, for the report
}

func newWorld(t *testing.T, subject Subject) *world {
	t.Helper()
	w := &world{t: t, subject: subject, clients: make(map[string]*clienttest.Client), arrived: make(map[int]bool), without: make(map[string]bool), model: newModel(), patience: 10 * time.Second}
	w.lab, w.host, w.lan = labtest.LAN(t)
	w.container = labtest.Containers(t, w.lab, w.host, "c")[0]
	for g, name := range []string{"a", "b"} {
		w.groups[g] = w.must(w.lab.Cgroup(name))
	}
	w.groups[groupInner] = w.must(w.lab.Below(w.groups[groupA], "inner"))
	w.dir = t.TempDir()
	w.settings.Linger = historyLinger
	// Of this process alone: an instance with the same prefix, in a test elsewhere on the
	// machine, may end sockets to it in every network namespace.
	own := byte(os.Getpid() % 252)
	w.settings.Prefix4 = netip.PrefixFrom(netip.AddrFrom4([4]byte{198, 18, own, 0}), 24)
	w.settings.Prefix6 = netip.MustParsePrefix(fmt.Sprintf("fd73:6f74:746f:f%02x::/64", own))
	w.serveLAN()
	w.tape = startTape(t, w.host, w.lan)
	err := w.host.Do(func() (err error) {
		for n, prefix := range []netip.Prefix{w.settings.Prefix4, w.settings.Prefix6} {
			var c *net.UDPConn
			to := netip.AddrPortFrom(network.NthAddr(prefix, network.ReservedProbe), listenerPort)
			// Not connected: the instance, and with it the route, comes later.
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

// fence is a way to one of the virtual addresses that stand for nothing.
type fence struct {
	*net.UDPConn
	to netip.AddrPort
}

func (f fence) Write(b []byte) (int, error) { return f.WriteToUDPAddrPort(b, f.to) }

func (w *world) must(g *netlab.Cgroup, err error) *netlab.Cgroup {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
	return g
}

// serveLAN answers on the LAN what leaves the host.
func (w *world) serveLAN() {
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
	a, err := startAnswerer(plainTag, w.lan.Do, func(netip.Addr) func(byte, int) bool { return all })
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(a.close)
}

// seen is the listener's part: what came to an address, and for whom it was taken.
func (w *world) seen(local netip.Addr) func(tag byte, number int) bool {
	w.mu.Lock()
	inst := w.answers
	w.mu.Unlock()
	h := heard{local: local}
	if h.origin, h.known = inst.OriginOf(local); h.known {
		h.workload, h.named = inst.Workload(h.origin.CgroupID)
	}
	return func(tag byte, number int) bool {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.arrived[number] = true
		if tag != queryTag {
			return false
		}
		h.number = number
		w.heard = append(w.heard, h)
		w.messages++
		return h.known
	}
}

// judgeHeard has the model judge what the listener got.
func (w *world) judgeHeard() {
	w.mu.Lock()
	all := w.heard
	w.heard = nil
	w.mu.Unlock()
	for _, h := range all {
		w.model.judge(h)
	}
}

// await waits until the listener got a message.
func (w *world) await(number int) bool {
	for end := time.Now().Add(w.patience); time.Now().Before(end); time.Sleep(20 * time.Microsecond) {
		w.mu.Lock()
		ok := w.arrived[number]
		w.mu.Unlock()
		if ok {
			return true
		}
	}
	return false
}

// settle waits until the listener got what datagrams were sent so far: it reads them in
// their order, and a slot is not to stand for something else while one is on its way.
func (w *world) settle() {
	if w.answerer == nil {
		return
	}
	for _, to := range w.fences {
		number := w.number(1)
		if _, err := to.Write(message16(fenceTag, number)); err != nil {
			w.t.Fatalf("fence: %v", err)
		}
		if !w.await(number) {
			w.model.violate("silent", "the listener does not answer at %v", to.(fence).to)
			return
		}
	}
}

// number returns the first of some numbers that nothing else has.
func (w *world) number(count int) int {
	w.serial += count
	return w.serial - count + 1
}

// do has a process do one thing, and judges what the listener got meanwhile.
func (w *world) do(proc, format string, args ...any) string {
	got := w.clients[proc].Do(format, args...)
	w.judgeHeard()
	return got
}

// join makes a cgroup for a process, and moves it there.
func (w *world) join(proc string, group int) *workload {
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

// leave removes a cgroup that no process is in any more.
func (w *world) leave(in *workload) {
	in.removed = true
	var err error
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); time.Sleep(time.Millisecond) {
		if err = os.Remove(in.dir); err == nil {
			return
		}
	}
	w.t.Fatal(err)
}

// spawn starts a process of a history in a cgroup of its own.
func (w *world) spawn(proc string, group int) {
	at := w.host
	if strings.HasSuffix(proc, "b") {
		at = w.container
	}
	w.clients[proc] = clienttest.Start(w.t, at, w.groups[group])
	_ = os.Remove(w.inbox(proc))
	if got := w.do(proc, "inbox %s", w.inbox(proc)); got != "ok" {
		w.t.Fatalf("inbox of %s: %s", proc, got)
	}
	w.model.parties[proc] = &party{name: proc, in: w.join(proc, group), holds: make(map[string]bool)}
}

func (w *world) inbox(proc string) string { return filepath.Join(w.dir, "inbox-"+proc) }

// open opens an instance for a set of cgroups.
func (w *world) open(set sealSet) (Instance, error) {
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

// shrinkPool takes all slots but a few out of the queue of free ones.
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
func (w *world) down() error { return w.host.Do(w.subject.Down) }

// exhausted reports whether there is no slot to get. Shares are of the slots that an
// instance has outside of tests, and do not bind here.
func (w *world) exhausted() bool {
	used, _ := w.slotsUsed()
	return used >= poolSize
}

func (w *world) slotsUsed() (used, refs int) {
	w.t.Helper()
	used, refs, err := w.inst.SlotsUsed()
	if err != nil {
		w.t.Fatal(err)
	}
	return used, refs
}

// freeSlots says what keeps a slot from being free when nothing is open; nil when all are.
func (w *world) freeSlots() error {
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
