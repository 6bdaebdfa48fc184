// SPDX-License-Identifier: Apache-2.0

package historytest

import (
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// step is one step of a history. It contains all its parameters, so that it can be executed, or
// skipped, if earlier steps are left out.
type step struct {
	kind    *stepKind
	history int
	proc    string   // the process that executes it: "3a" belongs to history 3
	other   string   // another process, or a child
	sock    string   // "3.7"
	what    string   // a kind of socket, an address
	more    string   // another address
	n       int      // selects one of the objects that exist when it is executed
	set     sealSet  // what the instance seals afterwards
	storms  []string // processes with storms meanwhile
}

// String formats the step in one line, for parseStep.
func (s step) String() string {
	out := []string{strconv.Itoa(s.history), s.kind.name}
	for _, f := range s.fields() {
		if *f.text != "" {
			out = append(out, f.name+"="+*f.text)
		}
	}
	if s.n != 0 {
		out = append(out, fmt.Sprintf("n=%d", s.n))
	}
	if s.set != 0 {
		out = append(out, "seal="+s.set.String())
	}
	if len(s.storms) > 0 {
		out = append(out, "while="+strings.Join(s.storms, ","))
	}
	return strings.Join(out, " ")
}

type stepField struct {
	name string
	text *string
}

func (s *step) fields() []stepField {
	return []stepField{{"by", &s.proc}, {"with", &s.other}, {"sock", &s.sock}, {"what", &s.what}, {"or", &s.more}}
}

// parseSteps reads the lines of a file that are steps in the format of a failure:
// "[NUMBER] STEP".
func parseSteps(t *testing.T, name string) (steps []step) {
	t.Helper()
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		number, rest, ok := strings.Cut(strings.TrimSpace(line), "]")
		if !ok || !strings.HasPrefix(number, "[") {
			continue
		}
		s, err := parseStep(rest)
		if err != nil {
			t.Fatal(err)
		}
		steps = append(steps, s)
	}
	return steps
}

// parseStep parses one step.
func parseStep(line string) (s step, err error) {
	f := strings.Fields(line)
	if len(f) < 2 {
		return s, fmt.Errorf("%q is not a step", line)
	}
	if s.history, err = strconv.Atoi(f[0]); err != nil {
		return s, err
	}
	at := slices.IndexFunc(stepKinds, func(k stepKind) bool { return k.name == f[1] })
	if at < 0 {
		return s, fmt.Errorf("%q: unknown step %q", line, f[1])
	}
	s.kind = &stepKinds[at]
	for _, part := range f[2:] {
		name, value, _ := strings.Cut(part, "=")
		for _, field := range s.fields() {
			if field.name == name {
				*field.text = value
			}
		}
		switch name {
		case "n":
			s.n = atoi(value)
		case "seal":
			s.set = parseSet(value)
		case "while":
			s.storms = strings.Split(value, ",")
		}
	}
	return s, nil
}

// stepKind is a kind of step, and how often it is selected.
type stepKind struct {
	name   string
	weight int
	plan   func(g *generator, s *step) bool // sets the parameters of a step, or returns false if it is not possible
	run    func(w *runner, s step)
}

// stepKinds are all kinds of steps. SOTTO_HISTORY_WITHOUT leaves some out, by their names.
var stepKinds = []stepKind{
	{"open", 80, planOpen("udp4", "udp4", "udp6", "udp6", "tcp4", "tcp6"), (*runner).runOpen},
	{"mptcp", 12, planOpen("mptcp4", "mptcp6"), (*runner).runOpen},
	{"connect", 120, planConnect, (*runner).runConnect},
	{"ask", 160, planSocket(isConnected), (*runner).runAsk},
	{"askto", 70, planAskTo, (*runner).runAsk},
	{"send", 30, planSocket(isConnected), (*runner).runSend},
	{"sendto", 15, planAskTo, (*runner).runSend},
	{"read", 20, planSocket(nil), (*runner).runRead},
	{"unroutable", 25, planSocket(isConnected), (*runner).runUnroutable},
	{"other-family", 15, planOtherFamily, (*runner).runConnect},
	{"elsewhere", 12, planConnect, (*runner).runElsewhere},
	{"disconnect", 15, planSocket(isConnected), (*runner).runDisconnect},
	{"race", 20, planRace, (*runner).runRace},
	{"own-address", 25, numbered(planSocket(nil)), (*runner).runOwnAddress},
	{"foreign-address", 20, numbered(planSocket(nil)), (*runner).runForeignAddress},
	{"pass", 40, planPass, (*runner).runPass},
	{"receive", 60, planReceive, (*runner).runReceive},
	{"fork", 15, planFork, (*runner).runFork},
	{"childask", 25, planChildAsk, (*runner).runChildAsk},
	{"childexit", 8, planChild, (*runner).runChildExit},
	{"close", 70, planClose, (*runner).runClose},
	{"exit", 5, planExit, (*runner).runExit},
	{"rmcgroup", 8, planRemove, (*runner).runRemove},
	{"churn", 20, numbered(planProc), (*runner).runChurn},
	{"reclaim", 15, planIn(phaseRunning), (*runner).runReclaim},

	{"stop", 3, planInstance(nil, phaseStopped, phaseRunning), (*runner).runStop},
	{"detach", 1, planInstance(nil, phaseDetached, phaseRunning), (*runner).runDetach},
	{"finish-stop", 150, planInstance(nil, phaseStopped, phaseDetached), (*runner).runFinishStop},
	{"kill", 3, planInstance(sameSet, phaseCrashed, phaseRunning), (*runner).runKill},
	{"down", 15, planInstance(nil, phaseStopped, phaseCrashed), (*runner).runDown},
	{"start", 80, planInstance(sameSet, phaseRunning, phaseStopped, phaseCrashed), (*runner).runStart},
	{"start-other", 40, planInstance(otherSet, phaseRunning, phaseStopped, phaseCrashed), (*runner).runStart},
	{"replace", 2, planInstance(sameSet, phaseRunning, phaseRunning), (*runner).runReplace},
	{"replace-wider", 1, planInstance(widerSet, phaseRunning, phaseRunning), (*runner).runReplace},
}

// generator plans histories. It keeps the state of each, assuming that every step succeeds.
type generator struct {
	*rand.Rand
	histories []*planned
	phase     phase
	set       sealSet
}

type planned struct {
	number int
	procs  [3]string
	groups [3]int
	socks  []*plannedSocket
	inbox  map[string][]*plannedSocket
	child  map[string][]*plannedSocket
	opened int
}

type plannedSocket struct {
	name, kind string
	group      int
	mapped     bool // mostly used for IPv4, by an IPv6 socket
	connected  bool
	holders    []string
}

func (k *plannedSocket) six() bool    { return strings.HasSuffix(k.kind, "6") }
func (k *plannedSocket) stream() bool { return !strings.HasPrefix(k.kind, "udp") }

// generate plans histories with length steps each, in random order.
func generate(seed uint64, without map[string]bool, histories, length int) []step {
	g := &generator{Rand: rand.New(rand.NewPCG(seed, 0)), phase: phaseRunning, set: startSet}
	var turns []int
	for n := range histories {
		h := &planned{number: n, inbox: make(map[string][]*plannedSocket), child: make(map[string][]*plannedSocket)}
		for p, letter := range []byte("abc") {
			h.procs[p], h.groups[p] = fmt.Sprintf("%d%c", n, letter), firstGroup[letter]
		}
		g.histories = append(g.histories, h)
		turns = append(turns, slices.Repeat([]int{n}, length)...)
	}
	g.Shuffle(len(turns), func(i, j int) { turns[i], turns[j] = turns[j], turns[i] })
	var kinds []*stepKind
	for n := range stepKinds {
		if k := &stepKinds[n]; !without[k.name] {
			kinds = append(kinds, k)
		}
	}
	steps := make([]step, 0, len(turns))
	for _, h := range turns {
		steps = append(steps, g.next(h, kinds))
	}
	return steps
}

// next plans one step of a history.
func (g *generator) next(history int, kinds []*stepKind) step {
	total := 0
	for _, k := range kinds {
		total += k.weight
	}
	for {
		at := g.IntN(total)
		for _, k := range kinds {
			if at -= k.weight; at >= 0 {
				continue
			}
			s := step{kind: k, history: history}
			if k.plan(g, &s) {
				return s
			}
			break
		}
	}
}

func (g *generator) of(s *step) *planned { return g.histories[s.history] }

// proc selects a process of the step's history, and returns its index.
func (g *generator) proc(s *step) int {
	n := g.IntN(3)
	s.proc = g.of(s).procs[n]
	return n
}

// pick selects a socket and a process that has it.
func (g *generator) pick(s *step, ok func(*plannedSocket) bool) *plannedSocket {
	var all []*plannedSocket
	for _, k := range g.of(s).socks {
		if len(k.holders) > 0 && (ok == nil || ok(k)) {
			all = append(all, k)
		}
	}
	if len(all) == 0 {
		return nil
	}
	k := all[g.IntN(len(all))]
	s.sock, s.proc = k.name, k.holders[g.IntN(len(k.holders))]
	return k
}

// nameserver selects a nameserver for a socket, of the family that it is used for, or the
// other one.
func (g *generator) nameserver(k *plannedSocket, otherFamily bool) string {
	n := g.IntN(nameservers)
	if k.six() && k.mapped != otherFamily {
		return fmt.Sprintf("[::ffff:%s]:53", nameserver(k.group, n, false))
	}
	return nsAddr(k.group, n, k.six())
}

func isConnected(k *plannedSocket) bool { return k.connected }

func planOpen(kinds ...string) func(*generator, *step) bool {
	return func(g *generator, s *step) bool {
		h := g.of(s)
		if len(h.socks) > 8 {
			return false
		}
		h.opened++
		k := &plannedSocket{name: fmt.Sprintf("%d.%d", h.number, h.opened), kind: kinds[g.IntN(len(kinds))], group: h.groups[g.proc(s)]}
		k.holders, k.mapped = []string{s.proc}, g.IntN(5) < 2
		s.sock, s.what = k.name, k.kind
		h.socks = append(h.socks, k)
		return true
	}
}

// numbered sets a random n, by which the step selects an object when it is executed.
func numbered(plan func(*generator, *step) bool) func(*generator, *step) bool {
	return func(g *generator, s *step) bool {
		s.n = g.IntN(1 << 10)
		return plan(g, s)
	}
}

func planSocket(ok func(*plannedSocket) bool) func(*generator, *step) bool {
	return func(g *generator, s *step) bool {
		k := g.pick(s, ok)
		if k != nil && s.kind.name == "disconnect" {
			k.connected = false
		}
		return k != nil
	}
}

func planConnect(g *generator, s *step) bool {
	k := g.pick(s, nil)
	if k == nil || k.stream() && k.connected && g.IntN(8) > 0 {
		return false
	}
	s.what = g.nameserver(k, false)
	k.connected = true
	return true
}

// planOtherFamily connects an IPv6 socket to an address of the other family than before. The
// kernel may refuse that after the hook.
func planOtherFamily(g *generator, s *step) bool {
	k := g.pick(s, (*plannedSocket).six)
	if k == nil {
		return false
	}
	s.what = g.nameserver(k, true)
	k.connected = true
	return true
}

func planAskTo(g *generator, s *step) bool {
	k := g.pick(s, func(k *plannedSocket) bool { return !k.stream() && (!k.connected || g.IntN(3) == 0) })
	if k == nil {
		return false
	}
	s.what = g.nameserver(k, g.IntN(10) == 0)
	return true
}

func planRace(g *generator, s *step) bool {
	// Streams are rarely interesting: the kernel holds their lock while the hook runs.
	k := g.pick(s, func(k *plannedSocket) bool { return !k.stream() || g.IntN(8) == 0 })
	if k == nil {
		return false
	}
	s.what, s.more = g.nameserver(k, false), g.nameserver(k, false)
	k.connected = true
	return true
}

func planPass(g *generator, s *step) bool {
	k := g.pick(s, nil)
	if k == nil {
		return false
	}
	h := g.of(s)
	s.other = h.procs[g.IntN(3)]
	h.inbox[s.other] = append(h.inbox[s.other], k)
	return s.other != s.proc
}

func planReceive(g *generator, s *step) bool {
	h := g.of(s)
	g.proc(s)
	if len(h.inbox[s.proc]) == 0 {
		return false
	}
	k := h.inbox[s.proc][0]
	h.inbox[s.proc] = h.inbox[s.proc][1:]
	k.holders = append(k.holders, s.proc)
	return true
}

func planClose(g *generator, s *step) bool {
	k := g.pick(s, nil)
	if k != nil {
		k.holders = slices.DeleteFunc(k.holders, func(p string) bool { return p == s.proc })
		g.sweep(g.of(s))
	}
	return k != nil
}

// sweep removes the sockets that no process has.
func (g *generator) sweep(h *planned) {
	h.socks = slices.DeleteFunc(h.socks, func(k *plannedSocket) bool {
		for _, in := range h.inbox {
			if slices.Contains(in, k) {
				return false
			}
		}
		return len(k.holders) == 0
	})
}
