// SPDX-License-Identifier: Apache-2.0

package historytest

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// The cgroups that an instance of a history may seal. The last is below the first.
const (
	groupA = iota
	groupB
	groupInner
	groupCount
)

// sealSet is a set of them, as bits.
type sealSet uint8

// effective is the set with what is below its members.
func (s sealSet) effective() sealSet {
	if s.has(groupA) {
		s |= 1 << groupInner
	}
	return s
}

func (s sealSet) has(group int) bool { return s&(1<<group) != 0 }

var groupNames = []string{"A", "B", "A/inner"}

func (s sealSet) String() string {
	var names []string
	for g, name := range groupNames {
		if s.has(g) {
			names = append(names, name)
		}
	}
	return strings.Join(names, "+")
}

func parseSet(text string) (s sealSet) {
	for name := range strings.SplitSeq(text, "+") {
		if g := slices.Index(groupNames, name); g >= 0 {
			s |= 1 << g
		}
	}
	return s
}

// phase is what the instance of a history is at.
type phase string

const (
	phaseRunning  phase = "running"
	phaseDetached phase = "detached" // a clean stop that is half done
	phaseStopped  phase = "stopped"
	phaseCrashed  phase = "killed"
)

// workload is a cgroup in which processes of a history run.
type workload struct {
	dir, path string // its directory; its path as Instance.Workload has it
	id        uint64
	group     int
	removed   bool
}

// party is a process of a history, or a child that one forked.
type party struct {
	name  string
	in    *workload
	holds map[string]bool // sockets
	inbox []string        // sockets passed to it and not yet taken
}

// meaning is what the listener must take a query for.
type meaning struct {
	nameserver netip.AddrPort
	who        *workload
}

// modelSocket is one socket, whatever descriptors there are of it.
type modelSocket struct {
	name, kind string
	made       *workload // hooks run by the cgroup that it was made in
	used       bool      // it was connected once
	mapped     bool      // to an IPv4 address
	mixed      bool      // to one of each family: the kernel may keep the source of the first
	left       bool      // an IPv6 peer: the kernel goes on taking datagrams of that one only
	peer       *modelPeer
	sent       map[int]*query
}

func (k *modelSocket) stream() bool { return !strings.HasPrefix(k.kind, "udp") }

// modelPeer is what a socket is connected to.
type modelPeer struct {
	meanings        []meaning // of its queries: none if it was connected past the hooks
	elsewhere       bool      // to a port that is not sealed
	odd             bool      // no answer is promised
	epoch, listener int       // when it was connected
}

// query is one message of a client.
type query struct {
	number, step int
	sock, to     string // to an address, or ""
	who          *workload
	meanings     []meaning
	mayLeave     bool // by the hooks' rules it is not for the listener
	asAddress    bool // the kernel may send it as one to an address
	sure         bool // an answer is promised
	sources      []netip.AddrPort
	peer         *modelPeer // for the rest: when it was sent
	epoch        int
}

// stormRange is the queries of a storm: from first on, to each nameserver in turn.
type stormRange struct {
	first, last int
	step        int
	who         *workload
	nameservers []string
	mayLeave    bool
}

// violation is a property that did not hold.
type violation struct {
	class, text string
	step        int
}

// model is what should be the case, in plain Go: it knows no kernel.
type model struct {
	phase    phase
	set      sealSet
	epoch    int // of the instance's maps
	listener int // of the listener's sockets
	socks    map[string]*modelSocket
	parties  map[string]*party
	queries  map[int]*query
	storms   []*stormRange
	broken   []violation
	step     int // being done
}

func newModel() *model {
	return &model{phase: phaseStopped, socks: make(map[string]*modelSocket), parties: make(map[string]*party), queries: make(map[int]*query)}
}

// sealed are the cgroups whose queries may not leave.
func (m *model) sealed() sealSet { return sealedIn(m.phase, m.set) }

func sealedIn(p phase, set sealSet) sealSet {
	if p == phaseRunning || p == phaseCrashed {
		return set.effective()
	}
	return 0
}

// hooked reports whether the hooks see what a socket does.
func (m *model) hooked(k *modelSocket) bool { return m.sealed().has(k.made.group) }

func (m *model) violate(class, format string, args ...any) {
	m.broken = append(m.broken, violation{class, fmt.Sprintf(format, args...), m.step})
}

// held returns a socket that a party has.
func (m *model) held(who, sock string) (*party, *modelSocket, bool) {
	p, k := m.parties[who], m.socks[sock]
	return p, k, p != nil && k != nil && p.holds[sock]
}

// drop takes a socket from a party. It is closed with its last descriptor.
func (m *model) drop(p *party, sock string) {
	delete(p.holds, sock)
	for _, other := range m.parties {
		if other.holds[sock] || slices.Contains(other.inbox, sock) {
			return
		}
	}
	delete(m.socks, sock)
}

func (m *model) dropAll(p *party) {
	for sock := range maps.Clone(p.holds) {
		m.drop(p, sock)
	}
	inbox := p.inbox
	p.inbox = nil
	for _, sock := range inbox {
		m.drop(p, sock)
	}
}

// unmapped is an address as the listener knows it.
func unmapped(addr string) netip.AddrPort {
	ap := netip.MustParseAddrPort(addr)
	return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
}

// mustConnect reports whether a connect to a nameserver has no reason to fail but the
// want of a slot.
func (m *model) mustConnect(k *modelSocket, addr string) bool {
	return m.phase == phaseRunning && m.hooked(k) && !(k.stream() && k.used) && !k.mixes(unmapped(addr))
}

// mixes reports whether a socket was to be connected to one of each family, with to.
func (k *modelSocket) mixes(to netip.AddrPort) bool {
	return k.mixed || k.used && k.mapped != to.Addr().Is4()
}

// use notes that a socket is to be connected to an address.
func (k *modelSocket) use(to netip.AddrPort) {
	k.mixed = k.mixes(to)
	k.used, k.mapped = true, to.Addr().Is4()
}

// connected notes a connect to a nameserver.
func (m *model) connected(p *party, k *modelSocket, addr, result string) {
	to := unmapped(addr)
	k.use(to)
	next := &modelPeer{epoch: m.epoch, listener: m.listener, elsewhere: to.Port() != 53}
	if m.hooked(k) && !next.elsewhere {
		next.meanings = []meaning{{to, p.in}}
	}
	m.settlePeer(k, next, result)
}

// settlePeer notes what a socket is connected to after a connect.
func (m *model) settlePeer(k *modelSocket, next *modelPeer, result string) {
	switch {
	case result == "ok":
		k.peer, k.left = next, false
	case k.stream() && result != "EISCONN" && result != "EALREADY":
		k.peer = nil
	case k.peer != nil && result != "EISCONN":
		k.peer.odd = true
	}
}

// duelled notes two connects at once: which was the last is not known.
func (m *model) duelled(p *party, k *modelSocket, addrs, results []string) {
	next := &modelPeer{epoch: m.epoch, listener: m.listener, odd: true}
	for _, addr := range addrs {
		k.use(unmapped(addr))
	}
	won := false
	for n, result := range results {
		if result == "ok" {
			won = true
			if m.hooked(k) {
				next.meanings = append(next.meanings, meaning{unmapped(addrs[n]), p.in})
			}
		}
	}
	if won {
		k.peer, k.left = next, false
	} else if k.peer != nil {
		k.peer.odd = true
	}
}

// ask notes a query before it is sent: to addr, or with "" to the socket's peer.
func (m *model) ask(number int, p *party, k *modelSocket, addr string) *query {
	q := &query{number: number, step: m.step, sock: k.name, who: p.in, to: addr, peer: k.peer, epoch: m.epoch}
	live := m.phase == phaseRunning && m.hooked(k) && !k.mixed
	switch {
	case addr != "" && m.hooked(k):
		q.meanings = []meaning{{unmapped(addr), p.in}}
		q.sure = live && k.peer == nil && !k.left
	case addr != "":
		q.mayLeave = true
	case k.peer.meanings != nil:
		q.meanings = k.peer.meanings
		q.sure = live && !k.peer.odd && k.peer.epoch == m.epoch && (!k.stream() || k.peer.listener == m.listener)
		// The kernel sends such a datagram as one to an address, which is another workload's.
		if k.kind == "udp6" && k.mapped && len(q.meanings) > 0 && q.meanings[0].who != p.in {
			q.sure = false
		}
	default:
		q.mayLeave = k.peer.elsewhere || !m.hooked(k)
	}
	for _, to := range q.meanings {
		q.sources = append(q.sources, to.nameserver)
	}
	// A datagram of a connection to a mapped address the kernel sends as one to that address
	// (udpv6_sendmsg), so that the hook redirects it, for whoever sends: also where the socket
	// was connected past the hooks.
	q.asAddress = addr == "" && k.kind == "udp6" && (k.mapped || k.mixed)
	k.sent[number], m.queries[number] = q, q
	return q
}

// asked notes how a query went: its result, and what the client read then.
func (m *model) asked(q *query, k *modelSocket, result string, read bool) {
	f := strings.Fields(result)
	if q.sure && f[0] != "ok" {
		m.violate("refused", "%v: %s", q, f[0])
		return
	}
	answered := m.read(k, f[1:])
	if q.sure && read && !slices.Contains(answered, q.number) {
		m.violate("silent", "%v: no answer, but %v", q, f)
	}
}

// read judges what a client read from a socket: each reply is to a query that was sent by
// it, and comes from where that was sent. It returns the numbers of those queries.
func (m *model) read(k *modelSocket, replies []string) (numbers []int) {
	for _, reply := range replies {
		if reply[0] == '!' {
			if reply == "!garbage" {
				m.violate("reply", "socket %s: garbage", k.name)
			}
			continue
		}
		number, source, _ := strings.Cut(reply[1:], "@")
		n, _ := strconv.Atoi(number)
		q := k.sent[n]
		if q == nil {
			m.violate("reply", "socket %s: %s is to none of its queries", k.name, reply)
			continue
		}
		numbers = append(numbers, n)
		// A segment may be sent again when nothing is sealed any more; see tape.isLeak.
		if reply[0] == plainTag && !q.mayLeave && !k.stream() {
			m.violate("leak-plain", "%v was answered by the LAN", q)
		}
		// A connected socket keeps what its address stands for, another one for a moment.
		same := q.peer == k.peer && (q.peer != nil && q.to == "" || q.step == m.step) && q.epoch == m.epoch && m.hooked(k)
		if from, err := netip.ParseAddrPort(source); err == nil && same && len(q.sources) > 0 &&
			!slices.Contains(q.sources, netip.AddrPortFrom(from.Addr().Unmap(), from.Port())) {
			m.violate("reply", "%v: the answer comes from %s", q, from)
		}
	}
	return numbers
}

func (q *query) String() string {
	var to []string
	for _, means := range q.meanings {
		to = append(to, means.nameserver.String())
	}
	return fmt.Sprintf("query %d (step %d, socket %s, to %s, sent by %s)", q.number, q.step, q.sock, strings.Join(to, " or "), q.who.path)
}

// find returns a query, also one of a storm; nil if there was none.
func (m *model) find(number int) *query {
	if q := m.queries[number]; q != nil {
		return q
	}
	for _, s := range m.storms {
		if number >= s.first && number < s.last {
			addr := s.nameservers[(number-s.first)%len(s.nameservers)]
			return &query{number: number, step: s.step, sock: "of a storm", who: s.who, mayLeave: s.mayLeave, meanings: []meaning{{unmapped(addr), s.who}}}
		}
	}
	return nil
}

// heard is a query as the listener took it.
type heard struct {
	number   int
	local    netip.Addr
	known    bool // the address stands for something
	origin   Origin
	workload string
	named    bool // workload is that cgroup's, and not what is known of a removed one
}

// judge compares that with who sent it.
func (m *model) judge(h heard) {
	q := m.find(h.number)
	if q == nil {
		m.violate("attribution", "the listener got a query %d that was not sent", h.number)
		return
	}
	if !h.known {
		return
	}
	for _, means := range q.meanings {
		if means.nameserver == h.origin.Addr && means.who.id == h.origin.CgroupID && means.who.isCalled(h.workload, h.named) {
			return
		}
	}
	if q.asAddress && q.who.id == h.origin.CgroupID && q.who.isCalled(h.workload, h.named) {
		return
	}
	m.violate("attribution", "%v was taken for one to %s by %q (cgroup %d), at %s", q, h.origin.Addr, h.workload, h.origin.CgroupID, h.local)
}

// isCalled reports whether a name stands for the workload: its own, or that of a cgroup above
// if it was removed.
func (w *workload) isCalled(name string, own bool) bool {
	if own {
		return name == w.path
	}
	above, ok := strings.CutSuffix(name, removedSuffix)
	return ok && w.removed && strings.HasPrefix(w.path, above)
}
