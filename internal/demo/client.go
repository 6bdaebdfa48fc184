// SPDX-License-Identifier: Apache-2.0

package demo

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"strings"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

// askTimeout limits one query, as dig does by default.
const askTimeout = 5 * time.Second

// question is one query of Ask.
type question struct {
	server netip.AddrPort
	name   string
	kind   dnsmessage.Type
	tcp    bool
}

// Ask is a DNS client for machines without dig. It accepts the arguments that the
// demo passes to dig, groups of "NAME [TYPE] @SERVER [+tcp]", ignores all other
// options, and prints the same as dig +noall +answer +stats. It is independent of
// Sotto: the nameserver that it prints is the address from which its socket received
// the reply.
func Ask(ctx context.Context, w io.Writer, args []string) error {
	questions, err := parseQuestions(args)
	if err != nil {
		return err
	}
	for _, q := range questions {
		if err := q.ask(ctx, w); err != nil {
			return fmt.Errorf("query %s for %s: %w", q.server.Addr(), q.name, err)
		}
	}
	return nil
}

// parseQuestions parses the arguments of Ask. A name starts a new question.
func parseQuestions(args []string) ([]question, error) {
	kinds := map[string]dnsmessage.Type{"A": dnsmessage.TypeA, "AAAA": dnsmessage.TypeAAAA, "TXT": dnsmessage.TypeTXT}
	var out []question
	for _, a := range args {
		kind, isKind := kinds[a]
		server, isServer := strings.CutPrefix(a, "@")
		switch isOption := strings.HasPrefix(a, "+"); {
		case isOption && a != "+tcp":
		case !isOption && !isServer && !isKind:
			out = append(out, question{name: strings.TrimSuffix(a, ".") + ".", kind: dnsmessage.TypeA})
		case len(out) == 0:
			return nil, fmt.Errorf("%q precedes the first name; write NAME TYPE @SERVER", a)
		case isOption:
			out[len(out)-1].tcp = true
		case isKind:
			out[len(out)-1].kind = kind
		default:
			addr, err := netip.ParseAddr(server)
			if err != nil {
				return nil, fmt.Errorf("nameserver %q: write an IP address after the @", server)
			}
			out[len(out)-1].server = netip.AddrPortFrom(addr, 53)
		}
	}
	for _, q := range out {
		if !q.server.IsValid() {
			return nil, fmt.Errorf("no nameserver for %s; write NAME TYPE @SERVER", q.name)
		}
	}
	if len(out) == 0 {
		return nil, errors.New("no name to query; write NAME TYPE @SERVER")
	}
	return out, nil
}

// ask sends one query and prints the answer.
func (q question) ask(ctx context.Context, w io.Writer) error {
	name, err := dnsmessage.NewName(q.name)
	if err != nil {
		return err
	}
	id := uint16(rand.Uint32())
	msg := dnsmessage.Message{
		Header:    dnsmessage.Header{ID: id, RecursionDesired: true},
		Questions: []dnsmessage.Question{{Name: name, Type: q.kind, Class: dnsmessage.ClassINET}},
	}
	query, err := msg.Pack()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	exchange, proto := q.overUDP, "UDP"
	if q.tcp {
		exchange, proto = q.overTCP, "TCP"
	}
	reply, from, err := exchange(ctx, query)
	if err != nil {
		return err
	}
	var answer dnsmessage.Message
	if err := answer.Unpack(reply); err != nil {
		return fmt.Errorf("parse reply: %w", err)
	}
	if answer.ID != id || !answer.Response || answer.RCode != dnsmessage.RCodeSuccess {
		return fmt.Errorf("unexpected reply: %v", answer.Header.GoString())
	}
	for _, r := range answer.Answers {
		if _, err := fmt.Fprintf(w, "%s\t%d\tIN\t%s\n", r.Header.Name, r.Header.TTL, data(r.Body)); err != nil {
			return err
		}
	}
	_, err = fmt.Fprintf(w, ";; SERVER: %s#%d(%s) (%s)\n", from.Addr(), from.Port(), q.server.Addr(), proto)
	return err
}

// overUDP sends the query from an unconnected socket, so that the returned address is
// the source of the reply as reported by the kernel, not the destination of the query.
func (q question) overUDP(ctx context.Context, query []byte) ([]byte, netip.AddrPort, error) {
	var lc net.ListenConfig
	pc, err := lc.ListenPacket(ctx, "udp", ":0")
	if err != nil {
		return nil, netip.AddrPort{}, err
	}
	defer pc.Close()
	conn := pc.(*net.UDPConn)
	if deadline, ok := ctx.Deadline(); ok {
		if err := conn.SetDeadline(deadline); err != nil {
			return nil, netip.AddrPort{}, err
		}
	}
	if _, err := conn.WriteToUDPAddrPort(query, q.server); err != nil {
		return nil, netip.AddrPort{}, err
	}
	buf := make([]byte, 65535)
	n, from, err := conn.ReadFromUDPAddrPort(buf)
	return buf[:n], netip.AddrPortFrom(from.Addr().Unmap(), from.Port()), err
}

// overTCP sends the query over TCP and returns the peer address from getpeername.
func (q question) overTCP(ctx context.Context, query []byte) ([]byte, netip.AddrPort, error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "tcp", q.server.String())
	if err != nil {
		return nil, netip.AddrPort{}, err
	}
	defer conn.Close()
	if deadline, ok := ctx.Deadline(); ok {
		if err := conn.SetDeadline(deadline); err != nil {
			return nil, netip.AddrPort{}, err
		}
	}
	framed := append(binary.BigEndian.AppendUint16(nil, uint16(len(query))), query...)
	if _, err := conn.Write(framed); err != nil {
		return nil, netip.AddrPort{}, err
	}
	var size [2]byte
	if _, err := io.ReadFull(conn, size[:]); err != nil {
		return nil, netip.AddrPort{}, err
	}
	reply := make([]byte, binary.BigEndian.Uint16(size[:]))
	if _, err := io.ReadFull(conn, reply); err != nil {
		return nil, netip.AddrPort{}, err
	}
	from := conn.RemoteAddr().(*net.TCPAddr).AddrPort()
	return reply, netip.AddrPortFrom(from.Addr().Unmap(), from.Port()), nil
}

// data formats the type and data of a record as dig does.
func data(b dnsmessage.ResourceBody) string {
	switch r := b.(type) {
	case *dnsmessage.AResource:
		return "A\t" + netip.AddrFrom4(r.A).String()
	case *dnsmessage.AAAAResource:
		return "AAAA\t" + netip.AddrFrom16(r.AAAA).String()
	case *dnsmessage.TXTResource:
		quoted := make([]string, len(r.TXT))
		for i, s := range r.TXT {
			quoted[i] = fmt.Sprintf("%q", s)
		}
		return "TXT\t" + strings.Join(quoted, " ")
	}
	return b.GoString()
}
