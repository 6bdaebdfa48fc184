// SPDX-License-Identifier: Apache-2.0

package client

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"strconv"
	"syscall"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/sys/unix"
)

// HitNames are the names that sameAnswers asks for, below the given domain.
var HitNames = []string{
	"a", "www", "WwW.Mixed", "nxdomain-1", "nodata-1", "a-2", "a-12", "a-16", "a-17", "a-30", "cname-1", "cname-6", "txt-100",
	"txt-470", "txt-500", "txt-520", "txt-900", "txt-1100", "txt-1190", "txt-1300", "ttl-2", "ttl-15",
	"a.rather.long.name.with.very.many.labels.to.reach.the.limit.of.the.names.that.the.kernel.may.answer.which.is.not.much.longer",
	"a.name.that.is.longer.than.the.names.that.the.kernel.may.answer.because.it.has.so.many.labels.that.it.does.not.fit.into.an.entry",
}

// packets returns a socket that is connected to a server, and whose packets have IP options if
// unusual is set: the kernel leaves their queries to user space.
func packets(server string, unusual bool) (net.Conn, error) {
	d := net.Dialer{Control: func(network, _ string, c syscall.RawConn) error {
		var err error
		return errors.Join(c.Control(func(fd uintptr) {
			switch {
			case !unusual:
			case network == "udp4":
				err = unix.SetsockoptString(int(fd), unix.IPPROTO_IP, unix.IP_OPTIONS, "\x01\x01\x01\x00")
			default:
				err = unix.SetsockoptString(int(fd), unix.IPPROTO_IPV6, unix.IPV6_DSTOPTS, "\x00\x00\x01\x04\x00\x00\x00\x00")
			}
		}), err)
	}}
	return d.Dial("udp", net.JoinHostPort(server, "53"))
}

// ask sends a message and returns the reply, or nil if there is none in time.
func ask(c net.Conn, query []byte, patience time.Duration) ([]byte, error) {
	if _, err := c.Write(query); err != nil {
		return nil, err
	}
	if err := c.SetReadDeadline(time.Now().Add(patience)); err != nil {
		return nil, err
	}
	reply := make([]byte, 65535)
	for {
		n, err := c.Read(reply)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return nil, nil
		}
		if err != nil {
			return nil, err
		}
		if n < 2 || bytes.Equal(reply[:2], query[:2]) {
			return reply[:n], nil
		}
	}
}

// sameAnswers sends as many random queries as the first argument says to each server, from two
// sockets: the kernel may answer those of one, and user space answers those of the other. It fails
// if two replies differ in more than the TTLs, or those by more than two seconds. The second argument
// is the seed, the third the domain.
func sameAnswers(args []string) error {
	n, err := strconv.Atoi(args[0])
	if err != nil {
		return err
	}
	seed, err := strconv.ParseUint(args[1], 10, 64)
	if err != nil {
		return err
	}
	for _, server := range args[3:] {
		usual, err := packets(server, false)
		if err != nil {
			return err
		}
		defer usual.Close()
		unusual, err := packets(server, true)
		if err != nil {
			return err
		}
		defer unusual.Close()
		r := rand.New(rand.NewPCG(seed, 1))
		for i := range n {
			query, silent := randomQuery(r, args[2], uint16(i))
			patience := 10 * time.Second
			if silent {
				patience = 20 * time.Millisecond
			}
			if err := compare(usual, unusual, query, patience); err != nil {
				return fmt.Errorf("query %d to %s: %w", i, server, err)
			}
		}
	}
	return nil
}

// errTTL is for replies whose TTLs differ: one of them may be from before a refresh.
var errTTL = errors.New("other TTLs")

// compare compares the replies to a query on two sockets. If only TTLs differ, it asks again: they
// differ by more than the time between two queries only once in the life of an answer.
func compare(usual, unusual net.Conn, query []byte, patience time.Duration) error {
	for try := 0; ; try++ {
		a, err := ask(usual, query, patience)
		if err != nil {
			return err
		}
		b, err := ask(unusual, query, patience)
		if err != nil {
			return err
		}
		switch err := sameReply(a, b); {
		case err == nil:
			return nil
		case try == 2 || !errors.Is(err, errTTL):
			return fmt.Errorf("%w\nquery %x\nusual path: %x\nuser space: %x", err, query, a, b)
		}
	}
}

// sameReply compares two replies.
func sameReply(a, b []byte) error {
	if (a == nil) != (b == nil) || len(a) != len(b) {
		return fmt.Errorf("replies of %d and %d bytes", len(a), len(b))
	}
	if bytes.Equal(a, b) {
		return nil
	}
	var x, y dns.Msg
	if err := errors.Join(x.Unpack(a), y.Unpack(b)); err != nil {
		return err
	}
	for i, list := range [][]dns.RR{x.Answer, x.Ns, x.Extra} {
		other := [][]dns.RR{y.Answer, y.Ns, y.Extra}[i]
		if len(list) != len(other) {
			return errors.New("another number of records")
		}
		for j, rr := range list {
			if rr.Header().Rrtype == dns.TypeOPT {
				continue
			}
			late := int64(rr.Header().Ttl) - int64(other[j].Header().Ttl)
			if late < -2 || late > 2 {
				return errTTL
			}
			rr.Header().Ttl, other[j].Header().Ttl = 0, 0
		}
	}
	if x.String() != y.String() {
		return fmt.Errorf("%v\nand\n%v", &x, &y)
	}
	return nil
}

// randomQuery returns a query, and whether it may remain unanswered. Most are usual; the others have
// something that only user space handles.
func randomQuery(r *rand.Rand, domain string, id uint16) (query []byte, silent bool) {
	name := HitNames[r.IntN(1+r.IntN(len(HitNames)))] + "." + domain // more often the first ones
	types := []uint16{dns.TypeA, dns.TypeA, dns.TypeAAAA, dns.TypeTXT, dns.TypeMX, dns.TypeHTTPS}
	m := new(dns.Msg).SetQuestion(dns.Fqdn(name), types[r.IntN(1+r.IntN(len(types)))])
	m.Id = id
	m.AuthenticatedData, m.CheckingDisabled = r.IntN(4) == 0, r.IntN(8) == 0
	if r.IntN(2) == 0 {
		m.SetEdns0([]uint16{0, 512, 600, 1232, 1232, 1400, 4096, 65535}[r.IntN(8)], r.IntN(3) == 0)
	}
	unusual := r.IntN(4) == 0
	if unusual {
		makeUnusual(r, m)
	}
	query, err := m.Pack()
	if err != nil {
		panic(err)
	}
	for i := 12; i < len(query) && query[i] != 0; i += 1 + int(query[i]) { // any spelling
		for j := i + 1; j <= i+int(query[i]); j++ {
			if c := query[j] | 0x20; c >= 'a' && c <= 'z' && r.IntN(2) == 0 {
				query[j] ^= 0x20
			}
		}
	}
	if unusual && r.IntN(2) == 0 {
		return damage(r, query)
	}
	return query, false
}

// makeUnusual gives a query something that is valid, but rare.
func makeUnusual(r *rand.Rand, m *dns.Msg) {
	switch r.IntN(9) {
	case 0:
		m.RecursionDesired = false
	case 1:
		m.Opcode = []int{dns.OpcodeNotify, dns.OpcodeUpdate, dns.OpcodeStatus, 7}[r.IntN(4)]
	case 2:
		m.Zero = true
	case 3:
		m.Authoritative, m.RecursionAvailable = true, true
	case 4:
		m.Question[0].Qclass = []uint16{dns.ClassCHAOS, dns.ClassANY, 77}[r.IntN(3)]
	case 5:
		m.SetEdns0(1232, false)
		m.IsEdns0().Option = append(m.IsEdns0().Option, &dns.EDNS0_LOCAL{Code: 65001, Data: []byte("x")})
	case 6:
		m.SetEdns0(1232, true)
		m.IsEdns0().SetVersion(1)
	case 7:
		m.SetEdns0(1232, true)
		m.IsEdns0().Option = append(m.IsEdns0().Option, &dns.EDNS0_PADDING{Padding: make([]byte, 12)})
	case 8:
		m.Answer = []dns.RR{&dns.A{Hdr: dns.RR_Header{Name: "x.", Rrtype: dns.TypeA, Class: dns.ClassINET}, A: net.IPv4zero.To4()}}
	}
}

// damage changes bytes or the length of a query.
func damage(r *rand.Rand, query []byte) (damaged []byte, silent bool) {
	switch r.IntN(4) {
	case 0:
		query = append(query, make([]byte, 1+r.IntN(20))...)
	case 1:
		query = query[:2+r.IntN(len(query)-2)]
	case 2:
		binary.BigEndian.PutUint16(query[4+2*r.IntN(4):], uint16(r.IntN(3)))
	default:
		query[2+r.IntN(len(query)-2)] ^= byte(1 << r.IntN(8))
	}
	return query, len(query) < 12 || query[2]&0x80 != 0
}
