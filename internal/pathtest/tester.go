// SPDX-License-Identifier: Apache-2.0

package pathtest

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os/signal"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"sotto/intercept/cgroup"
)

// totalTime limits the whole test.
const totalTime = 30 * time.Second

// Main is the child process. It waits for its configuration on stdin, tests, and writes its
// reports to stdout. It stops when stdin is closed. It ignores the signals by which a terminal
// or a service manager stops all processes of its parent, and SIGPIPE, because it has to clean up.
func Main(ctx context.Context, stdin io.Reader, stdout io.Writer) error {
	signal.Ignore(unix.SIGINT, unix.SIGTERM, unix.SIGHUP, unix.SIGPIPE)
	in := bufio.NewReader(stdin)
	line, err := in.ReadBytes('\n')
	if errors.Is(err, io.EOF) {
		return nil // the parent has stopped
	}
	if err != nil {
		return fmt.Errorf("read configuration: %w", err)
	}
	t := tester{out: json.NewEncoder(stdout)}
	if err := json.Unmarshal(line, &t.cfg); err != nil {
		return fmt.Errorf("read configuration: %w", err)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		_, _ = io.Copy(io.Discard, in) // until the parent closes it
		cancel()
	}()
	return t.run(ctx)
}

// tester tests the cgroups of a configuration.
type tester struct {
	cfg       Config
	root, own string // directories of the hierarchy and of the process's cgroup
	out       *json.Encoder
	tested    int
	lost      int
}

func (t *tester) run(ctx context.Context) (err error) {
	if t.root, err = cgroup.Root(); err != nil {
		return err
	}
	if t.own, err = cgroup.Own(); err != nil {
		return err
	}
	below, err := restricted(t.cfg, t.root)
	if err != nil {
		t.note("cannot search all cgroups: %v", err)
	}
	dirs := append(slices.Clone(t.cfg.Cgroups), below...)
	if len(dirs) > maxCgroups {
		t.note("only %d of %d cgroups are tested", maxCgroups, len(dirs))
		dirs = dirs[:maxCgroups]
	}
	end := time.Now().Add(totalTime)
	for _, dir := range dirs {
		if ctx.Err() != nil {
			return nil
		}
		if time.Now().After(end) {
			t.note("stopped after %s", totalTime)
			break
		}
		if err := t.test(ctx, dir); err != nil {
			t.note("cannot test the cgroup %s: %v", dir, err)
		}
	}
	if ctx.Err() == nil {
		t.note("tested the path of %d cgroups, %d reports", t.tested, t.lost)
	}
	return nil
}

// note writes a remark. If the parent has exited, stdin is closed as well.
func (t *tester) note(format string, args ...any) {
	_ = t.out.Encode(Report{Note: fmt.Sprintf(format, args...)})
}

// test sends queries from a cgroup, in all network namespaces of its processes.
func (t *tester) test(ctx context.Context, dir string) error {
	if _, err := cgroup.ID(dir); errors.Is(err, fs.ErrNotExist) {
		return nil // its service is stopped
	}
	all, complete, err := namespacesOf(dir, t.cfg.Exclude)
	defer closeAll(all)
	if err != nil {
		return err
	}
	if !complete {
		t.note("only %d network namespaces of %s are tested", maxNamespaces, dir)
	}
	for i := range all {
		all[i].findFamilies(t.cfg.Link)
	}
	failures, sent := make([][]failure, len(all)), false
	err = inside(dir, t.own, func() error {
		var wg sync.WaitGroup
		for i, ns := range all {
			conns, failed := connectFrom(ns, t.cfg.Port)
			wg.Go(func() { failures[i] = append(failed, query(ctx, conns)...) })
		}
		wg.Wait()
		sent = true
		return nil
	})
	if !sent || ctx.Err() != nil {
		return err
	}
	t.tested++
	for i, ns := range all {
		err = errors.Join(err, t.report(dir, ns, failures[i]))
	}
	return err
}

// connectFrom connects sockets of a network namespace for all kinds of queries. It returns the
// connections, and for each kind without one the reason.
func connectFrom(ns namespace, port uint16) (conns map[probe]net.Conn, failures []failure) {
	conns = make(map[probe]net.Conn)
	err := ns.Do(func() error {
		for _, p := range probes() {
			c, err := net.Conn(nil), error(errNoAddress)
			if ns.has[p.v6] {
				c, err = p.connect(port)
			}
			if err != nil {
				failures = append(failures, failure{p, err})
				continue
			}
			conns[p] = c
		}
		return nil
	})
	if err != nil { // the namespace cannot be entered
		failures = append(failures, failure{probe{}, fmt.Errorf("%w: %w", errNotEntered, err)})
	}
	return conns, failures
}

// query sends a query by each connection, closes it, and returns the queries that were not
// answered.
func query(ctx context.Context, conns map[probe]net.Conn) (failures []failure) {
	var wg sync.WaitGroup
	errs := make([]error, len(probes()))
	for i, p := range probes() {
		if c := conns[p]; c != nil {
			wg.Go(func() {
				defer c.Close()
				errs[i] = p.exchange(ctx, c)
			})
		}
	}
	wg.Wait()
	for i, p := range probes() {
		if errs[i] != nil {
			failures = append(failures, failure{p, errs[i]})
		}
	}
	return failures
}

// report writes what is known about lost queries, and a note about queries that could not be
// sent, or that no nameserver outside of the machine would get.
func (t *tester) report(dir string, ns namespace, all []failure) error {
	var reported, others []failure
	for _, f := range all {
		if f.kind() == noPath || f.kind() == cancelled || !ns.isHost() && !forwards(f.v6) {
			others = append(others, f)
		} else {
			reported = append(reported, f)
		}
	}
	if len(others) > 0 {
		t.note("%s", describe(dir, ns, others))
	}
	if len(reported) == 0 {
		return nil
	}
	r, err := t.diagnose(dir, ns, reported)
	t.lost++
	return errors.Join(err, t.out.Encode(r))
}
