// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"strings"
	"time"

	"sotto/forwarder"
	"sotto/intercept"
	"sotto/intercept/cgroup"
	"sotto/internal/config"
	"sotto/internal/control"
	"sotto/internal/netns"
	"sotto/internal/takeover"
)

// ReplaceMode is the value of the flag --replace (a [pflag.Value]).
type ReplaceMode uint8

const (
	ReplaceNone    ReplaceMode = iota // fail if a process runs
	ReplaceRunning                    // take over from it
	ReplaceBack                       // take over even if it has replaced this one
)

func (m ReplaceMode) String() string { return [...]string{"false", "true", "back"}[m] }

// Type makes the value optional, as that of a Boolean flag.
func (m *ReplaceMode) Type() string { return "bool" }

// Set parses a value.
func (m *ReplaceMode) Set(text string) error {
	for _, mode := range []ReplaceMode{ReplaceNone, ReplaceRunning, ReplaceBack} {
		if text == mode.String() {
			*m = mode
			return nil
		}
	}
	return errors.New("want --replace or --replace=back")
}

// openedSeal is a seal whose hooks are not attached yet.
type openedSeal struct {
	seal     *seal
	from     *predecessor // nil if there is none
	cfg      intercept.Config
	terms    takeover.Terms
	replaced []string // see takeover.Lineage
}

func (o openedSeal) close() error { return errors.Join(o.seal.Close(), o.from.close()) }

// open opens the seal. Unless mode is ReplaceNone it asks a running process to hand over.
// background lasts longer than ctx, which ends with a stop.
func (d *daemon) open(ctx, background context.Context, cfg intercept.Config, mode ReplaceMode, stops *stopper) (o openedSeal, err error) {
	o.cfg = cfg
	if o.terms, err = termsOf(cfg, mode); err != nil {
		return o, err
	}
	if mode == ReplaceNone {
		o.seal, err = openSeal(background, d.current(), cfg, d.hub, d.log)
		return o, err
	}
	stops.set(notOwned)
	if err := d.openAsSuccessor(ctx, background, cfg, &o); err != nil {
		return o, err
	}
	if o.from == nil {
		stops.set(owned)
	}
	if ctx.Err() != nil {
		return o, errors.Join(errNotTakenOver, o.close())
	}
	return o, nil
}

func termsOf(cfg intercept.Config, mode ReplaceMode) (takeover.Terms, error) {
	id, err := identity()
	t := termsOfConfig(cfg)
	t.Identity, t.Back = id, mode == ReplaceBack
	return t, err
}

// identity returns the identity of this process.
func identity() (string, error) {
	root, err := cgroup.Root()
	if err != nil {
		return "", err
	}
	own, err := cgroup.Own()
	if err != nil {
		return "", err
	}
	return takeover.Identity("/" + strings.TrimPrefix(strings.TrimPrefix(own, root), "/")), nil
}

// openInterval is the pause between attempts to open an instance that belongs to another
// process.
const openInterval = 100 * time.Millisecond

// openAsSuccessor opens the seal in place of the running process, or normally if there is
// none. It waits up to [takeover.Timeout] for a process that is stopping or handing over to
// a third one.
func (d *daemon) openAsSuccessor(ctx, background context.Context, cfg intercept.Config, o *openedSeal) (err error) {
	path := d.current().Control
	if path == "" {
		o.seal, err = openSeal(background, d.current(), cfg, d.hub, d.log)
		if errors.Is(err, intercept.ErrOwned) {
			err = fmt.Errorf("%w; or set control to the path of its control socket, which --replace needs (control is %q)", err, config.ControlOff)
		}
		return err
	}
	end := time.Now().Add(takeover.Timeout)
	for waiting := false; ; waiting = true {
		from, ids, err := requestTakeover(ctx, path, o.terms, d.log)
		if err == nil {
			o.from, o.replaced = from, append(o.replaced, ids...)
			if o.seal, err = openSeal(background, d.current(), cfg, d.hub, d.log); err == nil {
				return nil
			}
			err = errors.Join(err, from.close())
		}
		switch {
		case ctx.Err() != nil:
			return errNotTakenOver
		case from != nil, !errors.Is(err, control.ErrBusy) && !errors.Is(err, intercept.ErrOwned), time.Now().After(end):
			return err
		case !waiting:
			d.log.Info("waiting for the running Sotto", "reason", err)
		}
		select {
		case <-time.After(openInterval):
		case <-ctx.Done():
		}
	}
}

// predecessor is the process that this one takes over from, with its listener's sockets.
type predecessor struct {
	*takeover.Predecessor
	sockets *forwarder.Sockets
}

// requestTakeover is [takeover.Request] with the sockets opened. It returns nil if no process
// runs.
func requestTakeover(ctx context.Context, path string, t takeover.Terms, log *slog.Logger) (*predecessor, []string, error) {
	p, ids, err := takeover.Request(ctx, path, t, log)
	if p == nil {
		return nil, ids, err
	}
	for _, f := range p.UDP {
		if err := checkNamespace(f); err != nil {
			closeFiles(p.UDP, p.TCP)
			return nil, nil, errors.Join(err, p.Close())
		}
	}
	sockets, err := forwarder.Adopt(p.UDP, p.TCP)
	if err != nil {
		return nil, nil, errors.Join(fmt.Errorf("replace: %w", err), p.Close())
	}
	return &predecessor{p, sockets}, ids, nil
}

func closeFiles(lists ...[]*os.File) {
	for _, list := range lists {
		for _, f := range list {
			_ = f.Close() // a socket that another process keeps
		}
	}
}

// checkNamespace returns an error if the listener's socket is not in the network namespace that
// this process would open by its name. It would connect another one to the host, and the
// listener would receive no query any more.
func checkNamespace(socket *os.File) error {
	theirs, err := netns.OfSocket(socket)
	if err != nil {
		return err
	}
	defer theirs.Close()
	ours, err := netns.Open(InstanceName)
	if err == nil {
		defer ours.Close()
		if ours.ID() == theirs.ID() {
			return nil
		}
	}
	return fmt.Errorf("take over: the network namespace of the running Sotto is not %s here: in a container, mount the host's %s with propagation from the host, share its PID namespace and add the capabilities SYS_PTRACE and SYS_CHROOT",
		netns.Path(InstanceName), netns.Dir)
}

// take asks the predecessor to stop answering, and sends the connections that it hands over
// to conns. A stop that was requested before ends ctx and prevents the takeover.
func (p *predecessor) take(ctx context.Context, stops *stopper, conns chan<- clientConn, log *slog.Logger) error {
	if stops.beginTakeover() != nil {
		_ = p.Close()
		return nil
	}
	deliver := func(c *net.TCPConn, read []byte) error {
		select {
		case conns <- clientConn{c, read}:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return p.Take(ctx, func() { stops.set(owned) }, deliver, log)
}

// close closes the connection to the predecessor, which then resumes, and the sockets.
func (p *predecessor) close() error {
	if p == nil {
		return nil
	}
	return errors.Join(p.Close(), p.sockets.Close())
}
