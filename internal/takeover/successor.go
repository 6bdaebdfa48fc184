// SPDX-License-Identifier: Apache-2.0

package takeover

import (
	"context"
	"encoding/json"
	"errors"
	"net"
	"time"
)

// Successor is a process that takes over from this one. [Successor.Offer] is called first,
// and then either [Successor.Refuse], or [Successor.Give] and [Successor.Done].
type Successor struct {
	conn    *Conn
	version int // of its terms
}

// NewSuccessor returns the process with terms t at the other end of conn, which it takes
// over.
func NewSuccessor(conn *net.UnixConn, t Terms) *Successor {
	return &Successor{conn: NewConn(conn), version: t.Version}
}

// Offer sends the listener's sockets, and the identities of this process and its
// predecessors ([Lineage.Next]). It returns nil when the successor answers queries; the seal
// then belongs to the successor. The end of ctx closes the connection.
func (s *Successor) Offer(ctx context.Context, replaced []string, udp, tcp []int) error {
	if err := s.offer(ctx, replaced, udp, tcp); err != nil {
		return err
	}
	if s.version > 0 {
		_ = s.conn.Send(MsgTaken, nil) // it may have exited
	}
	return nil
}

func (s *Successor) offer(ctx context.Context, replaced []string, udp, tcp []int) error {
	stop := context.AfterFunc(ctx, func() { _ = s.conn.Close() })
	defer stop()
	if err := s.conn.SetReadDeadline(time.Now().Add(Timeout)); err != nil {
		return err
	}
	if err := s.conn.Expect(MsgReady); err != nil {
		return err
	}
	if s.version > 0 {
		ids, err := json.Marshal(replaced)
		if err != nil {
			return err
		}
		if err := s.conn.Send(MsgReplaced, ids); err != nil {
			return err
		}
	}
	if err := s.conn.Send(MsgSockets, []byte{byte(len(udp))}, append(udp, tcp...)...); err != nil {
		return err
	}
	return s.conn.Expect(MsgTake)
}

// Refuse informs the successor, if it still exists, that this process resumes, and closes
// the connection.
func (s *Successor) Refuse() {
	_ = s.conn.Send(MsgRefused, nil) // it may have exited
	_ = s.conn.Close()
}

// Close closes the connection without a message.
func (s *Successor) Close() error { return s.conn.Close() }

// Give sends a client's connection and the bytes that were read from it. It is safe for
// concurrent use.
func (s *Successor) Give(c *net.TCPConn, read []byte) error {
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	var sent error
	err = raw.Control(func(fd uintptr) { sent = s.conn.Send(MsgConn, read, int(fd)) })
	return errors.Join(err, sent)
}

// Done informs the successor that there are no more connections, and closes the connection.
func (s *Successor) Done() error {
	_ = s.conn.Send(MsgDone, nil) // it may have exited
	return s.conn.Close()
}
