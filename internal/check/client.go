// SPDX-License-Identifier: Apache-2.0

package check

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"sync"
	"time"

	"sotto/forwarder/wire"
)

// clientTimeout limits one query: as long as the C library waits.
const clientTimeout = 5 * time.Second

// The nameservers that the sealed query asks. They do not exist (RFC 5737, RFC 3849): a query
// that is not redirected reaches none, and the capture sees it by its destination.
var (
	nameserver4 = netip.MustParseAddrPort("192.0.2.53:53")
	nameserver6 = netip.MustParseAddrPort("[2001:db8::53]:53")
)

// question is one query of the client.
type question struct {
	Network    string // udp or tcp
	Nameserver netip.AddrPort
	Name       string
}

func (q question) String() string {
	if q.Nameserver.Addr().Is6() {
		return q.Network + "6"
	}
	return q.Network + "4"
}

// answer is the outcome of a question.
type answer struct {
	Question question
	Err      string // why there is no reply; "" if there is one
	Rcode    uint16
	Text     string // of the Extended DNS Error, if there is one
	Took     time.Duration
}

func (a *answer) replied() bool { return a.Err == "" }

func (a *answer) works() bool {
	return a.replied() && (a.Rcode == wire.RcodeSuccess || a.Rcode == wire.RcodeNXDomain)
}

// questions returns one question for each transport that this host has. Their names do not
// exist (RFC 6761 §6.4) and are random: no other program asks for them.
func questions(ipv6 bool) []question {
	out := []question{{"udp", nameserver4, ""}, {"tcp", nameserver4, ""}}
	if ipv6 {
		out = append(out, question{"udp", nameserver6, ""}, question{"tcp", nameserver6, ""})
	}
	for i := range out {
		out[i].Name = fmt.Sprintf("%s-%016x.sotto-check.invalid", out[i], rand.Uint64())
	}
	return out
}

// Client reads questions from in, asks them at the same time, and writes the answers to out. It
// runs in the sealed cgroup.
func Client(ctx context.Context, in io.Reader, out io.Writer) error {
	var all []question
	if err := json.NewDecoder(in).Decode(&all); err != nil {
		return fmt.Errorf("read the questions: %w", err)
	}
	return json.NewEncoder(out).Encode(askEach(ctx, all))
}

func askEach(ctx context.Context, all []question) []answer {
	out := make([]answer, len(all))
	var wg sync.WaitGroup
	for i, q := range all {
		wg.Go(func() {
			started := time.Now()
			out[i] = answer{Question: q}
			reply, err := q.exchange(ctx)
			out[i].Took = time.Since(started)
			if err == nil {
				err = out[i].parse(reply)
			}
			if err != nil {
				out[i].Err = err.Error()
			}
		})
	}
	wg.Wait()
	return out
}

func (a *answer) parse(msg []byte) error {
	reply, err := wire.ParseReply(msg)
	if err != nil {
		return err
	}
	a.Rcode = reply.Rcode
	for _, e := range reply.EDE {
		if a.Text == "" {
			a.Text = e.Text
		}
	}
	return nil
}

// exchange sends the query and returns the reply.
func (q question) exchange(ctx context.Context) ([]byte, error) {
	query, err := q.message()
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, clientTimeout)
	defer cancel()
	var d net.Dialer
	c, err := d.DialContext(ctx, q.Network, q.Nameserver.String())
	if err != nil {
		return nil, err
	}
	defer c.Close()
	deadline, _ := ctx.Deadline()
	if err := c.SetDeadline(deadline); err != nil {
		return nil, err
	}
	if q.Network == "tcp" {
		return exchangeTCP(c, query)
	}
	if _, err := c.Write(query); err != nil {
		return nil, err
	}
	buf := make([]byte, wire.MaxMessage)
	n, err := c.Read(buf)
	if err == nil && (n < wire.HeaderLen || wire.ID(buf) != wire.ID(query)) {
		err = errors.New("the reply has another ID")
	}
	return buf[:n], err
}

func exchangeTCP(c net.Conn, query []byte) ([]byte, error) {
	if _, err := c.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(query))), query...)); err != nil {
		return nil, err
	}
	var length [2]byte
	if _, err := io.ReadFull(c, length[:]); err != nil {
		return nil, err
	}
	buf := make([]byte, binary.BigEndian.Uint16(length[:]))
	_, err := io.ReadFull(c, buf)
	return buf, err
}

// message returns the query as a client sends it: with RD and an OPT record, so that the reply
// has the reason of a failure.
func (q question) message() ([]byte, error) {
	msg := binary.BigEndian.AppendUint16(nil, uint16(rand.Uint32()))
	msg = append(msg, 1, 0, 0, 1, 0, 0, 0, 0, 0, 1)
	msg, err := wire.AppendParsed(msg, q.Name)
	if err != nil {
		return nil, fmt.Errorf("name %q: %w", q.Name, err)
	}
	msg = append(msg, 0, 1, 0, 1)                                   // A, IN
	return append(msg, 0, 0, 41, 0x04, 0xD0, 0, 0, 0, 0, 0, 0), nil // OPT, 1,232 bytes
}
