// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"time"

	"sotto/forwarder"
	"sotto/intercept"
	"sotto/internal/control"
	"sotto/internal/handover"
)

// How one `run` takes over from another. It asks on the control socket, with its terms;
// the old one stops what only one may do, and goes on answering. The new one gets the
// listener's sockets, which then both have, makes everything ready, puts its programs in
// the place of the old one's and says so. Only then does the old one stop reading, answer
// what it has read, and hand over its clients' connections. Until then the end of the
// conversation has it take everything back.

// The kinds of messages. What they are followed by never changes; a kind that is not
// known ends the conversation.
const (
	sayReady   = 'r' // by the new one first: it listens
	saySockets = 's' // the sockets, and how many of them are for UDP
	sayTake    = 't' // by the new one: it answers, and its hooks are live
	sayConn    = 'c' // a client's connection, and what was read of it
	sayDone    = 'd' // that was all
)

// replaceTime is more than a start takes on a machine that is busy.
const replaceTime = time.Minute

// terms are what both processes must agree on.
type terms struct {
	Prefix4 string   `json:"prefix4"`
	Prefix6 string   `json:"prefix6"`
	Cgroups []string `json:"cgroups"` // directories
}

func termsOf(cfg intercept.Config) terms {
	return terms{cfg.Prefix4.String(), cfg.Prefix6.String(), cfg.Cgroups}
}

// fit says why a process that seals on terms t cannot take over from one on terms old.
func (t terms) fit(old terms) error {
	for _, p := range [][3]string{{"prefix4", t.Prefix4, old.Prefix4}, {"prefix6", t.Prefix6, old.Prefix6}} {
		if p[1] != p[2] {
			return fmt.Errorf("%s is %s here, and would be %s: virtual addresses in use keep their meaning only in the same network; keep it, or stop this Sotto first", p[0], p[2], p[1])
		}
	}
	sealed := map[string]bool{}
	for _, g := range t.Cgroups {
		sealed[g] = true
	}
	for _, g := range old.Cgroups {
		if !sealed[g] {
			return fmt.Errorf("cgroup %s is sealed here, and would not be: name it, or stop this Sotto first", g)
		}
	}
	return nil
}

// predecessor is the process that this one takes over from.
type predecessor struct {
	c       *handover.Conn
	sockets *forwarder.Sockets
}

// askToYield asks the Sotto at the control socket to hand over. There is nobody (nil)
// when none listens there.
func askToYield(ctx context.Context, path string, t terms) (_ *predecessor, err error) {
	if path == "" {
		return nil, fmt.Errorf("control is %q: --replace asks the Sotto that runs on its control socket; name it", controlOff)
	}
	text, err := json.Marshal(t)
	if err != nil {
		return nil, err
	}
	u, err := control.Replace(ctx, path, text)
	if errors.Is(err, control.ErrNobody) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("replace: %w", err)
	}
	from := &predecessor{c: handover.New(u)}
	if from.sockets, err = from.receiveSockets(); err != nil {
		return nil, errors.Join(fmt.Errorf("replace: %w", err), from.c.Close())
	}
	return from, nil
}

func (p *predecessor) receiveSockets() (*forwarder.Sockets, error) {
	if err := errors.Join(p.c.SetReadDeadline(time.Now().Add(replaceTime)), p.c.Send(sayReady, nil)); err != nil {
		return nil, err
	}
	kind, data, files, err := p.c.Receive()
	if err != nil {
		return nil, fmt.Errorf("receive the listener's sockets: %w", err)
	}
	if kind != saySockets || len(data) != 1 || int(data[0]) > len(files) {
		return nil, fmt.Errorf("receive the listener's sockets: kind %q with %d bytes and %d files", kind, len(data), len(files))
	}
	return forwarder.Adopt(files[:data[0]], files[data[0]:])
}

// take has the predecessor stop answering, and hands on what it gives until it is done
// or gone.
func (p *predecessor) take(ctx context.Context, to chan<- given, log *slog.Logger) error {
	stop := context.AfterFunc(ctx, func() { _ = p.c.Close() })
	defer stop()
	defer p.c.Close()
	if err := p.c.Send(sayTake, nil); err != nil {
		return fmt.Errorf("replace: %w", err)
	}
	for n := 0; ; n++ {
		if err := p.c.SetReadDeadline(time.Now().Add(replaceTime)); err != nil {
			return nil // ctx ended
		}
		kind, data, files, err := p.c.Receive()
		switch {
		case err == nil && kind == sayConn && len(files) == 1:
			if err := handOn(ctx, files[0], data, to); err != nil {
				log.Warn("a client's connection was lost on the way: it has to connect again", "err", err)
			}
			continue
		case err == nil && kind == sayDone:
			log.Info("took over", "connections", n)
		case ctx.Err() == nil && !errors.Is(err, io.EOF):
			log.Warn("the Sotto that ran before did not end well; clients' connections may be lost", "kind", string(kind), "err", err)
		}
		return nil
	}
}

// handOn makes a connection of a file.
func handOn(ctx context.Context, f *os.File, read []byte, to chan<- given) error {
	c, err := net.FileConn(f)
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	t, ok := c.(*net.TCPConn)
	if !ok {
		return errors.Join(fmt.Errorf("%s is no TCP connection", c.RemoteAddr()), c.Close())
	}
	select {
	case to <- given{t, read}:
		return nil
	case <-ctx.Done():
		return errors.Join(ctx.Err(), t.Close())
	}
}

// close ends the conversation: before take, the predecessor takes everything back.
func (p *predecessor) close() error {
	if p == nil {
		return nil
	}
	return errors.Join(p.sockets.Close(), p.c.Close())
}
