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

// maxStrayFrames is how many messages that are no reply may come over a connection
// with one query. A server that sends any is broken.
const maxStrayFrames = 8

// overTCP sends the query over a connection of its own.
func (a *asking) overTCP(ctx context.Context) ([]byte, error) {
	conn, done, err := a.send(ctx)
	if err != nil {
		return nil, err
	}
	defer done()
	r := bufio.NewReader(conn)
	for range maxStrayFrames + 1 {
		msg, err := readFrame(r, nil)
		if err != nil {
			return nil, err
		}
		if matches(a.message(), msg) {
			return msg, nil
		}
	}
	return nil, errStrays
}

// send connects and writes the query.
func (a *asking) send(ctx context.Context) (net.Conn, func(), error) {
	conn, done, err := a.dial(ctx)
	if err != nil {
		return nil, nil, err
	}
	if err = limit(ctx, conn.SetDeadline, a.until); err == nil {
		_, err = conn.Write(a.query)
	}
	if err != nil {
		done()
		return nil, nil, err
	}
	return conn, done, nil
}

// Transfer sends a query for AXFR or IXFR over TCP and hands each message of the
// reply to each, as it comes, with ID 0; it is each's until that returns. The first
// message has to be there by the time until; after that the server may be silent
// for ten seconds at a time. nil: the transfer ended as it should, with an error
// of the server's or with its last SOA. If the connection ends before, the error
// says so, and the client must not take what it got for the whole (RFC 5936 §2.2).
// An error of each ends the transfer and is returned as it is.
func (c *Client) Transfer(ctx context.Context, to netip.AddrPort, query []byte, until time.Time, each func(msg []byte) error) error {
	a := &asking{c: c, to: to, network: "tcp", began: time.Now(), until: until}
	if !c.transfers.take() {
		return a.failed(ErrOverloaded)
	}
	defer c.transfers.give()
	if !c.queries.take() {
		return a.failed(ErrOverloaded)
	}
	defer c.queries.give()
	if err := a.take(query); err != nil {
		return a.failed(err)
	}
	end, err := newEnding(query)
	if err != nil {
		return a.failed(err)
	}
	conn, done, err := a.send(ctx)
	if err != nil {
		return a.failed(contextError(ctx, err))
	}
	defer done()
	t := transfer{asking: a, end: end, conn: conn, r: bufio.NewReaderSize(conn, 16<<10), most: a.began.Add(c.most)}
	for first := true; ; first = false {
		if !first {
			err = t.more(ctx)
		}
		if err == nil {
			err = t.next()
		}
		if err != nil {
			return a.failed(contextError(ctx, err))
		}
		wire.SetID(t.msg, 0)
		if err := each(t.msg); err != nil || t.ended {
			return err
		}
	}
}

// transfer is a transfer under way.
type transfer struct {
	*asking
	conn  net.Conn
	r     *bufio.Reader
	end   ending
	most  time.Time // when it has lasted too long
	msg   []byte    // the latest message
	ended bool      // it was the last one
}

// more gives the server time for another message.
func (t *transfer) more(ctx context.Context) error {
	t.began = time.Now()
	t.until = t.began.Add(t.c.idle)
	if t.most.Before(t.until) {
		t.until = t.most
	}
	return limit(ctx, t.conn.SetDeadline, t.until)
}

// next reads a message and checks it.
func (t *transfer) next() (err error) {
	if t.msg, err = readFrame(t.r, t.msg); err != nil {
		return err
	}
	if !continues(t.message(), t.msg) {
		return errStrays
	}
	t.ended, err = t.end.message(t.msg)
	return err
}
