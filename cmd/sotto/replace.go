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

	"golang.org/x/sys/unix"

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
// conversation has it take everything back, as soon as the new one is gone: the record's
// lock tells. So there is at most one that keeps the machine's side in order, and at
// least one that answers, whichever of the two dies or hangs, and whenever.

// The kinds of messages. What they are followed by never changes; a kind that is not
// known ends the conversation.
const (
	sayReady   = 'r' // by the new one first: it listens
	saySockets = 's' // the sockets, and how many of them are for UDP
	sayTake    = 't' // by the new one: it answers, and its hooks are live
	sayConn    = 'c' // a client's connection, and what was read of it
	sayDone    = 'd' // that was all
	sayNo      = 'n' // by the old one: it goes on, and the new one has to end

	// By the old one, to a process whose terms have a version:
	sayReplaced = 'i' // before the sockets: the identities of those that it replaced, and its own
	sayTaken    = 'k' // the answer to sayTake: it stops reading
)

// errGoesOn is for who came too late.
var errGoesOn = errors.New("the Sotto that runs waited for this one for too long, and goes on: try again")

// replaceTime is more than a start takes on a machine that is busy.
const replaceTime = time.Minute

// termsVersion is 0 for a process that knows neither sayReplaced nor sayTaken.
const termsVersion = 1

// terms are what both processes must agree on, and who asks.
type terms struct {
	Prefix4 string   `json:"prefix4"`
	Prefix6 string   `json:"prefix6"`
	Cgroups []string `json:"cgroups"` // directories

	Version  int    `json:"version"`
	Identity string `json:"identity"` // see lineage; "": not known
	Back     bool   `json:"back"`     // to take over also from the process that replaced it
}

func termsOf(cfg intercept.Config, mode replaceMode) (terms, error) {
	id, err := ownIdentity()
	return terms{
		Prefix4: cfg.Prefix4.String(), Prefix6: cfg.Prefix6.String(), Cgroups: cfg.Cgroups,
		Version: termsVersion, Identity: id, Back: mode == replaceBack,
	}, err
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
	c        *handover.Conn
	sockets  *forwarder.Sockets
	replaced []string // see lineage
}

// askToYield asks the Sotto at the control socket to hand over. There is none (nil) when
// none listens there, or the one that did is gone. The identities are those that it has
// reported, also where it is gone since.
func askToYield(ctx context.Context, path string, t terms, log *slog.Logger) (_ *predecessor, replaced []string, err error) {
	text, err := json.Marshal(t)
	if err != nil {
		return nil, nil, err
	}
	u, err := control.Replace(ctx, path, text)
	if errors.Is(err, control.ErrNobody) {
		return nil, nil, nil
	}
	if err != nil {
		return nil, nil, fmt.Errorf("replace: %w", err)
	}
	from := &predecessor{c: handover.New(u)}
	stop := context.AfterFunc(ctx, func() { _ = from.c.Close() })
	from.sockets, err = from.receiveSockets()
	switch {
	case !stop():
		return nil, nil, errors.Join(ctx.Err(), from.close())
	case err == nil:
		return from, from.replaced, nil
	case gone(err):
		log.Warn("the Sotto that ran has ended before it handed over; this one starts as any other", "err", err)
		return nil, from.replaced, from.c.Close()
	}
	return nil, nil, errors.Join(fmt.Errorf("replace: %w", err), from.c.Close())
}

// gone tells whether err says that the other process has ended. One that goes on says
// so first, and its word can be received although nothing can be sent any more.
func gone(err error) bool {
	for _, is := range []error{io.EOF, io.ErrUnexpectedEOF, unix.EPIPE, unix.ECONNRESET} {
		if errors.Is(err, is) {
			return true
		}
	}
	return false
}

// say sends a word. That the other process is gone is left to be received.
func (p *predecessor) say(kind byte) error {
	if err := p.c.Send(kind, nil); err != nil && !gone(err) {
		return err
	}
	return nil
}

func (p *predecessor) receiveSockets() (*forwarder.Sockets, error) {
	if err := errors.Join(p.c.SetReadDeadline(time.Now().Add(replaceTime)), p.say(sayReady)); err != nil {
		return nil, err
	}
	kind, data, files, err := p.c.Receive()
	if err == nil && kind == sayReplaced {
		if p.replaced, err = decodeReplaced(data); err != nil {
			return nil, err
		}
		kind, data, files, err = p.c.Receive()
	}
	if err != nil {
		return nil, fmt.Errorf("receive the listener's sockets: %w", err)
	}
	if kind == sayNo {
		return nil, errGoesOn
	}
	if kind != saySockets || len(data) != 1 || int(data[0]) > len(files) {
		return nil, fmt.Errorf("receive the listener's sockets: kind %q with %d bytes and %d files", kind, len(data), len(files))
	}
	return forwarder.Adopt(files[:data[0]], files[data[0]:])
}

// take has the predecessor stop answering, and hands on what it gives until it is done
// or gone. From its answer on the seal is this process's. The error is errGoesOn when it
// does not stop. A stop that was asked for before ends ctx, and changes nothing.
func (p *predecessor) take(ctx context.Context, stops *stopper, to chan<- given, log *slog.Logger) error {
	stop := context.AfterFunc(ctx, func() { _ = p.c.Close() })
	defer stop()
	defer p.c.Close()
	if stops.hold() != nil {
		return nil
	}
	if err := p.say(sayTake); err != nil {
		return fmt.Errorf("replace: %w", err)
	}
	for n := 0; ; {
		if err := p.c.SetReadDeadline(time.Now().Add(replaceTime)); err != nil {
			return nil // ctx ended
		}
		kind, data, files, err := p.c.Receive()
		if err == nil && kind == sayNo {
			return fmt.Errorf("replace: %w", errGoesOn)
		}
		if ctx.Err() == nil {
			stops.become(owns) // it says that it has stopped, or it is gone, or it hangs
		}
		switch {
		case err == nil && kind == sayTaken:
			continue
		case err == nil && kind == sayConn && len(files) == 1:
			if err := handOn(ctx, files[0], data, to); err != nil {
				log.Warn("a client's connection was lost on the way: it has to connect again", "err", err)
			}
			n++
			continue
		case err == nil && kind == sayDone:
			log.Info("took over", "connections", n)
		case ctx.Err() == nil:
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
	err := p.c.Close()
	if p.sockets != nil {
		err = errors.Join(err, p.sockets.Close())
	}
	return err
}
