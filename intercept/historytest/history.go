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
	"time"

	"golang.org/x/sys/unix"
)

// Several histories run at once, because starting and stopping an instance is slow.
const (
	historySteps    = 40
	historiesAtOnce = 8
)

// Run executes random histories and checks their properties. The steps are those in stepKinds,
// the expected results come from model.
//
// Environment variables: SOTTO_HISTORIES is the number of histories. SOTTO_HISTORY_SEED
// selects them. SOTTO_HISTORY_WITHOUT lists kinds of steps to leave out. With
// SOTTO_HISTORY_SURVEY=1 it continues after a violation and counts violations by class.
// SOTTO_HISTORY_CLASS ignores violations of other classes. SOTTO_HISTORY_FILE executes the
// steps in a file, which may be the output of a failure.
func Run(t *testing.T, subject Subject) {
	count := envNumber(t, "SOTTO_HISTORIES", 16)
	seed := uint64(envNumber(t, "SOTTO_HISTORY_SEED", int(rand.Uint32())))
	survey := os.Getenv("SOTTO_HISTORY_SURVEY") != ""
	t.Logf("%d histories of %d steps, SOTTO_HISTORY_SEED=%d", count, historySteps, seed)
	w := newRunner(t, subject)
	w.leaveOut(subject)
	if name := os.Getenv("SOTTO_HISTORY_FILE"); name != "" {
		steps := parseSteps(t, name)
		if broken := w.run(steps); len(broken) > 0 {
			t.Error(describe(steps, broken))
		}
		return
	}
	classes := make(map[string]int)
	start := time.Now()
	for done := 0; done < count; done += historiesAtOnce {
		round := seed + uint64(done/historiesAtOnce)
		steps := generate(round, w.without, historiesAtOnce, historySteps)
		broken := w.run(steps)
		if len(broken) == 0 {
			continue
		}
		if class := os.Getenv("SOTTO_HISTORY_CLASS"); class != "" {
			broken = slices.DeleteFunc(broken, func(v violation) bool { return v.class != class })
		}
		if len(broken) == 0 {
			w.reset()
			continue
		}
		for _, class := range classesOf(broken) {
			classes[class]++
		}
		if survey {
			t.Logf("seed %d: %s", round, broken[0])
			w.reset()
			continue
		}
		t.Errorf("reproduce with SOTTO_HISTORIES=%d SOTTO_HISTORY_SEED=%d", historiesAtOnce, round)
		w.report(steps, broken)
		return
	}
	if len(classes) > 0 {
		t.Errorf("violations, by class and %d histories: %v", historiesAtOnce, classes)
	}
	// A listener that answers nothing, or a host that sends nothing, would satisfy most properties.
	t.Logf("%d single queries, of which %d had to be answered and were; %d in storms; the listener received %d; %s",
		w.asked, w.answered, w.stormed, w.messages, time.Since(start).Round(time.Second))
	if w.answered*10 < w.asked || w.messages < w.answered {
		t.Errorf("only %d of %d queries had to be answered", w.answered, w.asked)
	}
}

// leaveOut sets the kinds of steps that are left out.
func (w *runner) leaveOut(subject Subject) {
	for _, name := range strings.Split(os.Getenv("SOTTO_HISTORY_WITHOUT"), ",") {
		if name != "" && !slices.ContainsFunc(stepKinds, func(k stepKind) bool { return k.name == name }) {
			w.t.Fatalf("SOTTO_HISTORY_WITHOUT: no step is called %q", name)
		}
		w.without[name] = true
	}
	if subject.NoRecount {
		w.t.Log("MPTCP is left out: this kernel cannot count the sockets that hold a slot")
		w.without["mptcp"] = true
	}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, unix.IPPROTO_MPTCP)
	if err != nil {
		w.t.Logf("MPTCP is left out: %v", err)
		w.without["mptcp"] = true
		return
	}
	_ = unix.Close(fd)
}

// envNumber reads a number from the environment.
func envNumber(t *testing.T, name string, otherwise int) int {
	t.Helper()
	text := os.Getenv(name)
	if text == "" {
		return otherwise
	}
	n, err := strconv.Atoi(text)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return n
}

func (v violation) String() string { return fmt.Sprintf("%s, by step %d: %s", v.class, v.step, v.text) }

// classesOf returns the classes of violations, each once.
func classesOf(broken []violation) []string {
	var out []string
	for _, v := range broken {
		if !slices.Contains(out, v.class) {
			out = append(out, v.class)
		}
	}
	return out
}

// shrinkTime limits the search for a shorter history.
const shrinkTime = time.Minute

// report logs the steps of a failed round, and a shorter list that fails in the same way.
func (w *runner) report(steps []step, broken []violation) {
	w.t.Helper()
	w.t.Logf("all %d steps:\n%s", len(steps), describe(steps, broken))
	w.timeout = time.Second
	again := func(some []step) []violation {
		w.reset()
		return w.run(some)
	}
	class := broken[0].class
	fewer, why := shrink(steps, broken, time.Now().Add(shrinkTime), func(some []step) []violation {
		if got := again(some); slices.Contains(classesOf(got), class) {
			return got
		}
		return nil
	})
	w.t.Logf("%d steps that cause the same violation (%s):\n%s", len(fewer), class, describe(fewer, why))
}

// describe formats steps with the violations that they caused.
func describe(steps []step, broken []violation) string {
	var b strings.Builder
	for n, s := range steps {
		fmt.Fprintf(&b, "[%d] %v\n", n, s)
	}
	const most = 12
	for n, v := range broken {
		if n == most {
			fmt.Fprintf(&b, "and %d more\n", len(broken)-most)
			break
		}
		fmt.Fprintf(&b, "%v\n", v)
	}
	return b.String()
}

// shrink removes steps as long as the rest still fails, and returns the shortest list found,
// with its violations.
func shrink(steps []step, broken []violation, end time.Time, fails func([]step) []violation) ([]step, []violation) {
	try := func(rest []step) bool {
		if len(rest) == len(steps) || time.Now().After(end) {
			return false
		}
		if got := fails(rest); got != nil {
			steps, broken = rest, got
			return true
		}
		return false
	}
	without := func(drop func(step) bool) { try(slices.DeleteFunc(slices.Clone(steps), drop)) }
	for history := range historiesAtOnce {
		without(func(s step) bool { return s.history == history && s.proc != "" })
	}
	socks := make(map[string]bool)
	for _, s := range steps {
		socks[s.sock] = s.sock != ""
	}
	for sock, is := range socks {
		if is {
			without(func(s step) bool { return s.sock == sock })
		}
	}
	for size := len(steps) / 2; size > 0; size /= 2 {
		for at := 0; at < len(steps); {
			if !try(slices.Delete(slices.Clone(steps), at, min(at+size, len(steps)))) {
				at += size
			}
		}
	}
	return steps, broken
}
