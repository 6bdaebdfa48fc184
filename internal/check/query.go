// SPDX-License-Identifier: Apache-2.0

package check

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"time"

	"sotto/forwarder/wire"
	"sotto/intercept/cgroup"
	"sotto/internal/capture"
	"sotto/internal/daemon"
	"sotto/internal/netns"
)

// pathState is the state of the path between a sealed program and the listener, as found by the
// sealed query.
type pathState int

const (
	pathUnknown pathState = iota // no query was sent
	pathWorks                    // each query was answered, be it with an error
	pathBroken                   // a query was lost
)

// queryTimeout limits the sealed query with the creation of the seal.
const queryTimeout = 30 * time.Second

// checkQuery sends queries from a sealed process, and captures on all interfaces of this network
// namespace meanwhile.
func checkQuery(ctx context.Context, m *machine) Result {
	const name = "sealed query"
	switch {
	case !m.Query:
		return skipped(name, "--no-query")
	case !m.valid:
		return skipped(name, "the configuration is invalid")
	case !m.root:
		return needsRoot(name)
	case m.lackCaps:
		return needsCapabilities(name)
	case m.noSeal != "":
		return skipped(name, "%s", m.noSeal)
	}
	ctx, cancel := context.WithTimeout(ctx, queryTimeout)
	defer cancel()
	_, ipv6 := hasIPv6()
	all := questions(ipv6)
	ask, skip := m.asker()
	if skip != "" {
		return skipped(name, "%s", skip)
	}
	answers, packets, err := captured(func() ([]answer, error) { return ask(ctx, all) })
	switch {
	case errors.Is(err, errNoCapture):
		return skipped(name, "packets cannot be captured: needs CAP_NET_RAW")
	case errors.Is(err, errCapture):
		return warning(name, "check again when this machine is less busy", "%v", err)
	case err != nil:
		return failed(name, "see the failed checks above", "%v", err)
	}
	m.path = pathOf(answers)
	return judgeQuery(name, answers, examine(packets, all, m.seal.Prefix4, m.seal.Prefix6))
}

// asker returns the function that asks from a sealed process, or why there is none: the running
// Sotto is not replaced by another seal.
func (m *machine) asker() (ask func(context.Context, []question) ([]answer, error), skip string) {
	if m.running == nil || m.running.Seal == nil {
		return m.askInSeal, ""
	}
	root, err := cgroup.Root()
	if err != nil {
		return nil, err.Error()
	}
	own, err := cgroup.Own()
	if err != nil {
		return nil, err.Error()
	}
	path := strings.TrimPrefix(own, root)
	if !cgroup.IsWithin(root, path, m.seal.Cgroups) || cgroup.IsWithin(root, path, m.seal.Exclude) {
		return nil, "the running Sotto does not seal this process: run 'sotto check' in one of its cgroups"
	}
	return func(ctx context.Context, all []question) ([]answer, error) { return askEach(ctx, all), nil }, ""
}

// askInSeal asks from a process in a new sealed cgroup, as `sotto exec` does.
func (m *machine) askInSeal(ctx context.Context, all []question) (out []answer, err error) {
	own, err := cgroup.Own()
	if err != nil {
		return nil, err
	}
	cg, err := cgroup.CreateForCommand(own, fmt.Sprintf("sotto-check-%d", os.Getpid()))
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, cg.Close()) }()
	o := m.Daemon
	o.Logger = discard
	err = daemon.Exec(ctx, o, m.plan, cg, func(func()) error {
		out, err = m.runClient(ctx, cg, all)
		return err
	})
	return out, err
}

// runClient runs the client in a cgroup.
func (m *machine) runClient(ctx context.Context, cg *cgroup.Created, all []question) (out []answer, err error) {
	text, err := json.Marshal(all)
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, m.Client[0], m.Client[1:]...)
	cmd.Stdin, cmd.Stderr = bytes.NewReader(text), &bytes.Buffer{}
	cmd.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: cg.FD()}
	reply, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("run the client in the sealed cgroup: %w: %s", err, cmd.Stderr)
	}
	return out, json.Unmarshal(reply, &out)
}

var (
	// errNoCapture means that the process may not capture. Nothing was asked.
	errNoCapture = errors.New("packets cannot be captured")

	// errCapture means that the capture is incomplete.
	errCapture = errors.New("the capture is incomplete")
)

// captured calls ask and returns the packets that this machine sent or received meanwhile.
func captured(ask func() ([]answer, error)) ([]answer, []capture.Packet, error) {
	home, err := netns.Current()
	if err != nil {
		return nil, nil, err
	}
	defer home.Close()
	c, err := capture.Start(home, "")
	if errors.Is(err, fs.ErrPermission) {
		return nil, nil, errNoCapture
	}
	if err != nil {
		return nil, nil, err
	}
	answers, err := ask()
	packets, captureErr := c.Stop()
	if captureErr != nil {
		captureErr = fmt.Errorf("%w: %w", errCapture, captureErr)
	}
	return answers, packets, errors.Join(err, captureErr)
}

func pathOf(answers []answer) pathState {
	if slices.ContainsFunc(answers, func(a answer) bool { return !a.replied() }) {
		return pathBroken
	}
	return pathWorks
}

// evidence describes the captured packets of the questions.
type evidence struct {
	packets    int              // in total
	redirected int              // questions that were seen on the way to the listener
	plain      []capture.Packet // of the questions, to other destinations
}

// blocks contain the virtual addresses of all instances with default prefixes.
var blocks = []netip.Prefix{netip.MustParsePrefix("198.18.0.0/15"), netip.MustParsePrefix("fd73:6f74:746f::/48")}

// examine finds the packets of the questions: those with their names, and those of the
// nameservers, which nothing else uses. On the way to the listener they have virtual addresses.
func examine(packets []capture.Packet, all []question, prefixes ...netip.Prefix) (e evidence) {
	e.packets = len(packets)
	prefixes = append(slices.Clone(blocks), prefixes...)
	virtual := func(a netip.Addr) bool {
		return slices.ContainsFunc(prefixes, func(p netip.Prefix) bool { return p.Contains(a) })
	}
	seen := map[string]bool{}
	for _, p := range packets {
		named := slices.IndexFunc(all, func(q question) bool { return p.Contains(q.Name) })
		asked := slices.ContainsFunc(all, func(q question) bool { return p.Dst == q.Nameserver || p.Src == q.Nameserver })
		switch {
		case virtual(p.Src.Addr()) || virtual(p.Dst.Addr()):
			if named >= 0 {
				seen[all[named].Name] = true
			}
		case named >= 0 || asked:
			e.plain = append(e.plain, p)
		}
	}
	e.redirected = len(seen)
	return e
}

// judgeQuery judges the answers and the capture.
func judgeQuery(name string, answers []answer, e evidence) Result {
	var lost, refused, transports []string
	var slowest time.Duration
	for i := range answers {
		a := &answers[i]
		slowest = max(slowest, a.Took)
		transports = append(transports, a.Question.String())
		switch {
		case !a.replied():
			lost = append(lost, a.Question.String()+": "+a.Err)
		case !a.works():
			refused = append(refused, strings.TrimSuffix(a.Question.String()+": "+wire.RcodeName(a.Rcode)+" ("+a.Text+")", " ()"))
		}
	}
	all := strings.Join(transports, ", ")
	switch {
	case len(e.plain) > 0:
		return failed(name, `a rule with use = "plain" matches every name, or another program redirects the packets: see above`,
			"%d packets left in the clear, the first one is %v", len(e.plain), e.plain[0])
	case len(lost) > 0:
		return failed(name, "see the firewall below", "no answer to %s", list(lost, "; "))
	case len(refused) > 0:
		return failed(name, "see the upstreams above, and the rules that match every name", "%s", list(refused, "; "))
	case e.redirected < len(answers):
		return failed(name, "", "the capture saw only %d of %d queries on their way to Sotto, so it proves nothing", e.redirected, len(answers))
	}
	return ok(name, "%s answered within %s, nothing in the clear in %d captured packets", all, slowest.Round(time.Millisecond), e.packets)
}
