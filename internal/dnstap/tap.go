// SPDX-License-Identifier: Apache-2.0

package dnstap

import (
	"context"
	"errors"
	"log/slog"
	"sync"

	"golang.org/x/sync/errgroup"

	"sotto/forwarder/tap"
)

// Config describes what is recorded, and where. At least one of File and Socket is set.
type Config struct {
	// File is the path of a file. If there is one already, it is renamed: the time is added
	// to its name.
	File string

	// Socket is the path of a Unix socket that a receiver listens on. It need not exist yet.
	Socket string

	Client    bool // record the queries of clients, and the replies
	Forwarder bool // record the queries to upstreams and nameservers, and their replies

	// TLSAsTCP records the protocol of messages over TLS or HTTPS as TCP, and over QUIC as UDP. Readers from before the value DOT
	// (December 2020), such as dnstap-ldns 0.2.1, stop at the first message with it.
	TLSAsTCP bool

	Identity string // of this machine
	Version  string // of Sotto

	// WorkloadName returns the name of the workload with a cgroup path, or "" if it is not known.
	// It is called for each message, and must not block. nil: names are not recorded.
	WorkloadName func(workload string) string

	// Log receives what operators should know.
	Log *slog.Logger
}

// Tap records messages. Its methods are safe for concurrent use, except Close.
type Tap struct {
	cfg    Config
	head   []byte // see appendHead
	extras extras
	file   *file // nil if there is none
	socket *socket
}

// Open opens the file, if there is one. The caller calls Close.
func Open(cfg Config) (t *Tap, err error) {
	t = &Tap{cfg: cfg, head: appendHead(nil, cfg.Identity, cfg.Version), extras: extras{name: cfg.WorkloadName}}
	if cfg.File != "" {
		if t.file, err = openFile(&t.cfg); err != nil {
			return nil, err
		}
	}
	if cfg.Socket != "" {
		t.socket = newSocket(&t.cfg)
	}
	return t, nil
}

// scratch holds a frame while it is copied to the outputs.
var scratch = sync.Pool{New: func() any { return new([]byte) }}

// Message records a message. It is a [tap.Func].
func (t *Tap) Message(m tap.Message) {
	client := m.Kind == tap.ClientQuery || m.Kind == tap.ClientResponse
	if client && !t.cfg.Client || !client && !t.cfg.Forwarder {
		return
	}
	if t.cfg.TLSAsTCP {
		m.Proto = carrier(m.Proto)
	}
	outputs := [...]*buffer{nil, nil}
	if t.file != nil {
		outputs[0] = t.file.buffer
	}
	if t.socket != nil {
		outputs[1] = t.socket.buffer
	}
	frame := scratch.Get().(*[]byte)
	defer scratch.Put(frame)
	*frame = (*frame)[:0]
	for _, b := range outputs {
		switch {
		case b == nil:
		case b.full.Load():
			b.lost.Add(1)
		default:
			if len(*frame) == 0 {
				*frame = appendFrame(*frame, t.head, t.extras.of(m.Workload), &m)
			}
			b.add(*frame)
		}
	}
}

// Run writes to the outputs until ctx is canceled. Close writes what comes later.
func (t *Tap) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	if t.file != nil {
		g.Go(func() error { return t.file.run(ctx) })
	}
	if t.socket != nil {
		g.Go(func() error { return t.socket.run(ctx) })
	}
	return g.Wait()
}

// Reopen starts a new file if another program has renamed or removed the current one. When it
// returns nil the old file is complete and closed. After an error the old one stays in use.
func (t *Tap) Reopen(ctx context.Context) error {
	if t.file == nil {
		return nil
	}
	return t.file.restart(ctx)
}

// Close writes what is left and ends the streams. Run must have returned, and Message must not
// be called any more.
func (t *Tap) Close() error {
	var errs []error
	if t.file != nil {
		errs = append(errs, t.file.close())
	}
	if t.socket != nil {
		errs = append(errs, t.socket.close())
	}
	return errors.Join(errs...)
}

// Stats are the numbers of an output since the start.
type Stats struct {
	Written uint64 // messages
	Lost    uint64 // messages that were not written
}

// FileStats returns the numbers of the file, and false if there is none.
func (t *Tap) FileStats() (Stats, bool) {
	if t.file == nil {
		return Stats{}, false
	}
	return t.file.stats(), true
}

// SocketStats returns the numbers of the socket, and false if there is none.
func (t *Tap) SocketStats() (Stats, bool) {
	if t.socket == nil {
		return Stats{}, false
	}
	return t.socket.stats(), true
}

func (b *buffer) stats() Stats { return Stats{b.written.Load(), b.lost.Load()} }

// carrier returns the protocol below an encrypted one.
func carrier(p tap.Proto) tap.Proto {
	switch p {
	case tap.TLS, tap.HTTPS:
		return tap.TCP
	case tap.QUIC:
		return tap.UDP
	}
	return p
}
