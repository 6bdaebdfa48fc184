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

// The cgroups that an instance may seal. groupInner is below groupA.
const (
	groupA = iota
	groupB
	groupInner
	groupCount
)

// sealSet is a set of these cgroups, as bits.
type sealSet uint8

// effective returns the set with all cgroups below its members.
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

// phase is the state of the instance.
type phase string

const (
	phaseRunning  phase = "running"
	phaseDetached phase = "detached" // in the middle of a clean stop
	phaseStopped  phase = "stopped"
	phaseCrashed  phase = "killed"
)

// workload is a cgroup with processes of a history.
type workload struct {
	dir, path string // its directory; its path in the format of Instance.Workload
	id        uint64
	group     int
	removed   bool
}

// process is a process of a history, or a forked child.
type process struct {
	name  string
	in    *workload
	holds map[string]bool // sockets
	inbox []string        // sockets that were passed to it and not received yet
}

// destination is a possible attribution of a query: its original destination and workload.
type destination struct {
	nameserver netip.AddrPort
	who        *workload
}

// modelSocket is one socket. It may have several descriptors.
type modelSocket struct {
	name, kind string
	made       *workload // the hooks of the cgroup that it was opened in apply
	used       bool      // it was connected before
	mapped     bool      // to an IPv4 address
	mixed      bool      // to both families: the kernel may keep the source address of the first
	named      bool      // it named a virtual address: replies may come from there
	left       bool      // an IPv6 peer: the kernel still accepts datagrams only from that one
	peer       *modelPeer
	sent       map[int]*query
}

func (k *modelSocket) stream() bool { return !strings.HasPrefix(k.kind, "udp") }

// modelPeer is the peer of a connected socket.
type modelPeer struct {
	expected        []destination // of its queries; empty if no hook has redirected the connect
	elsewhere       bool          // to a port that is not sealed
	odd             bool          // an answer is not required
	epoch, listener int           // when it was connected
}

// query is one query of a client.
type query struct {
	number, step int
	sock, to     string // to an address, or ""
	who          *workload
	expected     []destination
	mayLeave     bool // it is not redirected
	asAddress    bool // the kernel may send it like an unconnected datagram
	mustAnswer   bool // an answer is required
	sources      []netip.AddrPort
	peer         *modelPeer // the socket's peer when it was sent
	epoch        int
}

// stormRange is the queries of a storm: from first to last, to the nameservers in turn.
type stormRange struct {
	first, last int
	step        int
	who         *workload
	nameservers []string
	mayLeave    bool
}

// violation is the violation of a property.
type violation struct {
	class, text string
	step        int
}

// model is the expected state, in plain Go. It does not use the kernel.
type model struct {
	phase     phase
	set       sealSet
	epoch     int // number of the instance's maps
	listener  int // number of the listener's sockets
	socks     map[string]*modelSocket
	processes map[string]*process
	queries   map[int]*query
	storms    []*stormRange
	broken    []violation
	step      int // the current one
}

func newModel() *model {
	return &model{phase: phaseStopped, socks: make(map[string]*modelSocket), processes: make(map[string]*process), queries: make(map[int]*query)}
}

// sealed returns the cgroups whose queries must not leave.
func (m *model) sealed() sealSet { return sealedIn(m.phase, m.set) }

func sealedIn(p phase, set sealSet) sealSet {
	if p == phaseRunning || p == phaseCrashed {
		return set.effective()
	}
	return 0
}

// hooked reports whether hooks apply to a socket.
func (m *model) hooked(k *modelSocket) bool { return m.sealed().has(k.made.group) }

func (m *model) violate(class, format string, args ...any) {
	m.broken = append(m.broken, violation{class, fmt.Sprintf(format, args...), m.step})
}

// held returns a process and a socket, and whether the process has the socket.
func (m *model) held(who, sock string) (*process, *modelSocket, bool) {
	p, k := m.processes[who], m.socks[sock]
	return p, k, p != nil && k != nil && p.holds[sock]
}

// drop removes a socket from a process. The socket is closed with its last descriptor.
func (m *model) drop(p *process, sock string) {
	delete(p.holds, sock)
	for _, other := range m.processes {
		if other.holds[sock] || slices.Contains(other.inbox, sock) {
			return
		}
	}
	delete(m.socks, sock)
}

func (m *model) dropAll(p *process) {
	for sock := range maps.Clone(p.holds) {
		m.drop(p, sock)
	}
	inbox := p.inbox
	p.inbox = nil
	for _, sock := range inbox {
		m.drop(p, sock)
	}
}

// unmapped converts an address to the form that the listener uses.
func unmapped(addr string) netip.AddrPort {
	ap := netip.MustParseAddrPort(addr)
	return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
}

// mustConnect reports whether a connect to a nameserver can only fail because no slot is free.
func (m *model) mustConnect(k *modelSocket, addr string) bool {
	return m.phase == phaseRunning && m.hooked(k) && !(k.stream() && k.used) && !k.mixes(unmapped(addr))
}

// mixes reports whether a socket was connected to both families, including to.
func (k *modelSocket) mixes(to netip.AddrPort) bool {
	return k.mixed || k.used && k.mapped != to.Addr().Is4()
}

// use records an attempt to connect a socket to an address.
func (k *modelSocket) use(to netip.AddrPort) {
	k.mixed = k.mixes(to)
	k.used, k.mapped = true, to.Addr().Is4()
}

// connected records a connect to a nameserver.
func (m *model) connected(p *process, k *modelSocket, addr, result string) {
	to := unmapped(addr)
	k.use(to)
	next := &modelPeer{epoch: m.epoch, listener: m.listener, elsewhere: to.Port() != 53}
	if m.hooked(k) && !next.elsewhere {
		next.expected = []destination{{to, p.in}}
	}
	m.settlePeer(k, next, result)
}

// settlePeer records the peer of a socket after a connect.
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

// raced records two simultaneous connects. It is unknown which one was the last.
func (m *model) raced(p *process, k *modelSocket, addrs, results []string) {
	next := &modelPeer{epoch: m.epoch, listener: m.listener, odd: true}
	for _, addr := range addrs {
		k.use(unmapped(addr))
	}
	won := false
	for n, result := range results {
		if result == "ok" {
			won = true
			if m.hooked(k) {
				next.expected = append(next.expected, destination{unmapped(addrs[n]), p.in})
			}
		}
	}
	if won {
		k.peer, k.left = next, false
	} else if k.peer != nil {
		k.peer.odd = true
	}
}

// ask records a query before it is sent: to addr, or if that is "", to the socket's peer.
func (m *model) ask(number int, p *process, k *modelSocket, addr string) *query {
	q := &query{number: number, step: m.step, sock: k.name, who: p.in, to: addr, peer: k.peer, epoch: m.epoch}
	live := m.phase == phaseRunning && m.hooked(k) && !k.mixed
	switch {
	case addr != "" && m.hooked(k):
		q.expected = []destination{{unmapped(addr), p.in}}
		q.mustAnswer = live && k.peer == nil && !k.left
	case addr != "":
		q.mayLeave = true
	case k.peer.expected != nil:
		q.expected = k.peer.expected
		q.mustAnswer = live && !k.peer.odd && k.peer.epoch == m.epoch && (!k.stream() || k.peer.listener == m.listener)
		// The kernel sends such a datagram like an unconnected one, to another workload's address.
		if k.kind == "udp6" && k.mapped && len(q.expected) > 0 && q.expected[0].who != p.in {
			q.mustAnswer = false
		}
	default:
		q.mayLeave = k.peer.elsewhere || !m.hooked(k)
	}
	for _, to := range q.expected {
		q.sources = append(q.sources, to.nameserver)
	}
	// The kernel sends a datagram of a socket that is connected to a mapped address like an
	// unconnected one (udpv6_sendmsg). So the sendmsg hook redirects it for the sender, also if
	// no hook redirected the connect.
	q.asAddress = addr == "" && k.kind == "udp6" && (k.mapped || k.mixed)
	k.sent[number], m.queries[number] = q, q
	return q
}

// asked records the result of a query, and the replies that the client read.
func (m *model) asked(q *query, k *modelSocket, result string, read bool) {
	f := strings.Fields(result)
	if q.mustAnswer && f[0] != "ok" {
		m.violate("refused", "%v: %s", q, f[0])
		return
	}
	answered := m.read(k, f[1:])
	if q.mustAnswer && read && !slices.Contains(answered, q.number) {
		m.violate("silent", "%v: no answer, but %v", q, f)
	}
}

// read checks the replies that a client read from a socket: each must belong to a query that
// was sent by the socket, and come from its destination. It returns the numbers of the
// queries.
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
			m.violate("reply", "socket %s: %s belongs to none of its queries", k.name, reply)
			continue
		}
		numbers = append(numbers, n)
		// A segment may be retransmitted after the seal has ended; see recording.isLeak.
		if reply[0] == plainTag && !q.mayLeave && !k.stream() {
			m.violate("leak-plain", "%v was answered by the LAN", q)
		}
		// A connected socket keeps its slot, an unconnected one keeps it for a moment.
		same := q.peer == k.peer && (q.peer != nil && q.to == "" || q.step == m.step) && q.epoch == m.epoch && m.hooked(k)
		if from, err := netip.ParseAddrPort(source); err == nil && same && !k.named && len(q.sources) > 0 &&
			!slices.Contains(q.sources, netip.AddrPortFrom(from.Addr().Unmap(), from.Port())) {
			m.violate("reply", "%v: the answer comes from %s", q, from)
		}
	}
	return numbers
}

func (q *query) String() string {
	var to []string
	for _, means := range q.expected {
		to = append(to, means.nameserver.String())
	}
	return fmt.Sprintf("query %d (step %d, socket %s, to %s, sent by %s)", q.number, q.step, q.sock, strings.Join(to, " or "), q.who.path)
}

// find returns the query with a number, including those of storms, or nil.
func (m *model) find(number int) *query {
	if q := m.queries[number]; q != nil {
		return q
	}
	for _, s := range m.storms {
		if number >= s.first && number < s.last {
			addr := s.nameservers[(number-s.first)%len(s.nameservers)]
			return &query{number: number, step: s.step, sock: "of a storm", who: s.who, mayLeave: s.mayLeave, expected: []destination{{unmapped(addr), s.who}}}
		}
	}
	return nil
}

// received is a query as the listener received it.
type received struct {
	number   int
	local    netip.Addr
	known    bool // the address has an original destination
	origin   Origin
	workload string
	named    bool // workload is the complete path of the cgroup
}

// check compares the attribution of a query with its sender.
func (m *model) check(h received) {
	q := m.find(h.number)
	if q == nil {
		m.violate("attribution", "the listener received query %d, which was not sent", h.number)
		return
	}
	if !h.known {
		return
	}
	for _, means := range q.expected {
		if means.nameserver == h.origin.Addr && means.who.id == h.origin.CgroupID && means.who.hasName(h.workload, h.named) {
			return
		}
	}
	if q.asAddress && q.who.id == h.origin.CgroupID && q.who.hasName(h.workload, h.named) {
		return
	}
	m.violate("attribution", "%v was attributed to %s and %q (cgroup %d), at %s", q, h.origin.Addr, h.workload, h.origin.CgroupID, h.local)
}
