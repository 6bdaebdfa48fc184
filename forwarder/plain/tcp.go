// SPDX-License-Identifier: Apache-2.0

package plain

import (
	"bufio"
	"context"
	"net"
	"net/netip"
	"time"

	"sotto/forwarder/wire"
)

// maxStrayFrames limits the messages on a connection that are not the reply to its
// query. A server that sends any is broken.
const maxStrayFrames = 8

// overTCP sends the query over its own connection.
func (r *request) overTCP(ctx context.Context) ([]byte, error) {
	conn, done, err := r.send(ctx)
	if err != nil {
		return nil, err
	}
	defer done()
	br := bufio.NewReader(conn)
	for range maxStrayFrames + 1 {
		msg, err := readFrame(br, nil)
		if err != nil {
			return nil, err
		}
		if matches(r.message(), msg) {
			return msg, nil
		}
	}
	return nil, errStrays
}

// send connects and writes the query.
func (r *request) send(ctx context.Context) (net.Conn, func(), error) {
	conn, err := r.dial(ctx)
	if err != nil {
		return nil, nil, err
	}
	stop := failWith(ctx, conn)
	done := func() { stop(); _ = conn.Close() }
	if err = setDeadline(ctx, conn.SetDeadline, r.until); err == nil {
		_, err = conn.Write(r.query)
	}
	if err != nil {
		done()
		return nil, nil, err
	}
	return conn, done, nil
}

// Transfer sends a query for AXFR or IXFR over TCP and calls each with every message of
// the reply, with ID 0. each must not keep the message. The first message has to arrive
// by the time until, each later one within ten seconds of the previous. Transfer returns
// nil if the transfer was completed, with its last SOA or with an error response. If the
// connection closes earlier it returns an error, and the client must not consider the
// zone complete (RFC 5936 §2.2). An error of each ends the transfer and is returned
// unchanged.
func (c *Client) Transfer(ctx context.Context, to netip.AddrPort, query []byte, until time.Time, each func(msg []byte) error) error {
	r := &request{c: c, to: to, network: "tcp", start: time.Now(), until: until}
	if err := r.prepare(query); err != nil {
		return r.failed(err)
	}
	end, err := newEndDetector(query)
	if err != nil {
		return r.failed(err)
	}
	conn, done, err := r.send(ctx)
	if err != nil {
		return r.failed(contextError(ctx, err))
	}
	defer done()
	t := transfer{request: r, end: end, conn: conn, br: bufio.NewReaderSize(conn, 16<<10), limit: r.start.Add(c.maxTransfer)}
	for first := true; ; first = false {
		if !first {
			err = t.extend(ctx)
		}
		if err == nil {
			err = t.next()
		}
		if err != nil {
			return r.failed(contextError(ctx, err))
		}
		wire.SetID(t.msg, 0)
		if err := each(t.msg); err != nil || t.ended {
			return err
		}
	}
}

// transfer is a zone transfer in progress.
type transfer struct {
	*request
	conn  net.Conn
	br    *bufio.Reader
	end   endDetector
	limit time.Time // deadline of the whole transfer
	msg   []byte    // the latest message
	ended bool      // it was the last one
}

// extend sets the deadline for another message.
func (t *transfer) extend(ctx context.Context) error {
	t.start = time.Now()
	t.until = t.start.Add(t.c.idle)
	if t.limit.Before(t.until) {
		t.until = t.limit
	}
	return setDeadline(ctx, t.conn.SetDeadline, t.until)
}

// next reads a message and checks it.
func (t *transfer) next() (err error) {
	if t.msg, err = readFrame(t.br, t.msg); err != nil {
		return err
	}
	if !continues(t.message(), t.msg) {
		return errStrays
	}
	t.ended, err = t.end.message(t.msg)
	return err
}
