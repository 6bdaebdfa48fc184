// SPDX-License-Identifier: Apache-2.0

package takeover

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"time"

	"sotto/internal/control"
)

// Predecessor is the process that this one takes over from.
type Predecessor struct {
	// UDP and TCP are the listener's sockets. They belong to the caller of [Request].
	UDP, TCP []*os.File

	conn     *Conn
	replaced []string // see Lineage
}

// Request asks the Sotto with the control socket at path to hand over, and receives its
// sockets. It returns nil if no process listens there, or if that process exits before it
// has sent its sockets. The identities are those in the process's [Lineage] and its own, also
// if it has exited since. The error is [control.ErrBusy] if the process is stopping or handing
// over already, and [ErrTooLate] if it has resumed. The caller closes the Predecessor and
// the sockets.
func Request(ctx context.Context, path string, t Terms, log *slog.Logger) (_ *Predecessor, replaced []string, err error) {
	text, err := json.Marshal(t)
	if err != nil {
		return nil, nil, err
	}
	conn, err := control.Replace(ctx, path, text)
	if errors.Is(err, control.ErrNotRunning) {
		return nil, nil, nil
	}
	if err != nil {
		return nil, nil, fmt.Errorf("replace: %w", err)
	}
	p := &Predecessor{conn: NewConn(conn)}
	stop := context.AfterFunc(ctx, func() { _ = p.conn.Close() })
	err = p.receiveSockets()
	switch {
	case !stop():
		closeAll(p.UDP)
		closeAll(p.TCP)
		return nil, nil, errors.Join(ctx.Err(), p.Close())
	case err == nil:
		return p, p.replaced, nil
	case isClosed(err):
		log.Warn("the running Sotto exited before it handed over; starting without a takeover", "err", err)
		return nil, p.replaced, p.Close()
	}
	return nil, nil, errors.Join(fmt.Errorf("replace: %w", err), p.Close())
}

// send sends a message without data. It ignores that the other process has closed the
// connection: receiving reports that, after the messages that were sent before.
func (p *Predecessor) send(kind byte) error {
	if err := p.conn.Send(kind, nil); err != nil && !isClosed(err) {
		return err
	}
	return nil
}

func (p *Predecessor) receiveSockets() error {
	if err := errors.Join(p.conn.SetReadDeadline(time.Now().Add(Timeout)), p.send(MsgReady)); err != nil {
		return err
	}
	kind, data, files, err := p.conn.Receive()
	if err == nil && kind == MsgReplaced {
		closeAll(files)
		if p.replaced, err = parseReplaced(data); err != nil {
			return err
		}
		kind, data, files, err = p.conn.Receive()
	}
	if err != nil {
		return fmt.Errorf("receive the listener's sockets: %w", err)
	}
	if kind == MsgSockets && len(data) == 1 && int(data[0]) <= len(files) {
		p.UDP, p.TCP = files[:data[0]], files[data[0]:]
		return nil
	}
	closeAll(files)
	if kind == MsgRefused {
		return ErrTooLate
	}
	return fmt.Errorf("receive the listener's sockets: message %q with %d bytes and %d files", kind, len(data), len(files))
}

// Take asks the predecessor to stop answering, once this process answers. It passes the
// clients' connections that it receives to deliver, which takes them over unless it returns
// an error, until the predecessor has sent all of them or has exited. It calls owned when
// the seal belongs to this process: after the predecessor's reply, exit or timeout. The
// error is [ErrTooLate] if the predecessor has resumed instead. If ctx ends Take returns
// nil. It closes the connection to the predecessor.
func (p *Predecessor) Take(ctx context.Context, owned func(), deliver func(c *net.TCPConn, read []byte) error, log *slog.Logger) error {
	stop := context.AfterFunc(ctx, func() { _ = p.conn.Close() })
	defer stop()
	defer p.conn.Close()
	if err := p.send(MsgTake); err != nil {
		return fmt.Errorf("replace: %w", err)
	}
	for n := 0; ; {
		if err := p.conn.SetReadDeadline(time.Now().Add(Timeout)); err != nil {
			return nil // ctx ended
		}
		kind, data, files, err := p.conn.Receive()
		if err == nil && kind == MsgRefused {
			closeAll(files)
			return fmt.Errorf("replace: %w", ErrTooLate)
		}
		if ctx.Err() == nil {
			owned() // the predecessor has stopped, has exited or hangs
		}
		switch {
		case err == nil && kind == MsgTaken:
			closeAll(files)
			continue
		case err == nil && kind == MsgConn && len(files) == 1:
			if err := deliverFile(files[0], data, deliver); err != nil {
				log.Warn("client connection lost in the handover: the client has to reconnect", "err", err)
			}
			n++
			continue
		case err == nil && kind == MsgDone:
			log.Info("took over", "connections", n)
		case ctx.Err() == nil:
			log.Warn("handover incomplete: client connections may be lost", "message", string(kind), "err", err)
		}
		closeAll(files)
		return nil
	}
}

// deliverFile converts a file to a connection and delivers it.
func deliverFile(f *os.File, read []byte, deliver func(*net.TCPConn, []byte) error) error {
	c, err := net.FileConn(f)
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	t, ok := c.(*net.TCPConn)
	if !ok {
		return errors.Join(fmt.Errorf("%s is not a TCP connection", c.RemoteAddr()), c.Close())
	}
	if err := deliver(t, read); err != nil {
		return errors.Join(err, t.Close())
	}
	return nil
}

// Close closes the connection to the predecessor, which then resumes, unless [Predecessor.Take]
// was called.
func (p *Predecessor) Close() error { return p.conn.Close() }
