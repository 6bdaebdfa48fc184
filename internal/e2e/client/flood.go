// SPDX-License-Identifier: Apache-2.0

package client

import (
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/miekg/dns"
)

// Tally counts the queries of a client.
type Tally struct {
	asked, tries int
	worst        time.Duration // from the first try to the answer
}

func (c *Tally) String() string {
	return fmt.Sprintf("%d of %d tries were answered, the slowest after %v", c.asked, c.tries, c.worst.Round(time.Millisecond))
}

// Ask queries a name until it is answered: under load UDP may lose queries, and the machine
// may be slow. It fails if the query is refused over capacity, or not answered in ten tries.
func (c *Tally) Ask(cl *dns.Client, at, name string) error {
	start := time.Now()
	c.asked++
	for range 10 {
		c.tries++
		m := new(dns.Msg).SetQuestion(name, dns.TypeA)
		m.SetEdns0(1232, false)
		r, _, err := cl.Exchange(m, at)
		switch {
		case err != nil:
		case len(r.Answer) == 1:
			c.worst = max(c.worst, time.Since(start))
			return nil
		case strings.Contains(r.String(), "overloaded"):
			return fmt.Errorf("%s: %v", name, r)
		}
	}
	return fmt.Errorf("%s: no answer in ten tries", name)
}

// From returns a client with a loopback address as its source.
func From(proto, addr string) *dns.Client {
	d := &net.Dialer{LocalAddr: &net.UDPAddr{IP: net.ParseIP(addr)}, Timeout: 2 * time.Second}
	if proto == "tcp" {
		d.LocalAddr = &net.TCPAddr{IP: net.ParseIP(addr)}
	}
	return &dns.Client{Net: proto, Dialer: d, Timeout: 2 * time.Second}
}

// Flood sends queries from the sockets in turn, at most rate per second, until stop is
// closed: every fourth for a cached name, the others for new names that the upstream never
// answers.
func Flood(conns []net.Conn, rate int, stop <-chan struct{}) (sent int) {
	cached := packed(1, "cached.example.")
	for start := time.Now(); Running(stop); sent++ {
		if early := time.Until(start.Add(time.Duration(sent) * time.Second / time.Duration(rate))); early > time.Millisecond {
			time.Sleep(early)
		}
		query := cached
		if sent%4 != 0 {
			query = packed(uint16(sent), fmt.Sprintf("silent%d.example.", sent))
		}
		_, _ = conns[sent%len(conns)].Write(query) // lost if the buffer is full
	}
	return sent
}

// floodSealed floods a nameserver from a thousand ports, at a rate, until its standard input is
// closed.
func floodSealed(args []string) error {
	rate, err := strconv.Atoi(args[1])
	if err != nil {
		return err
	}
	var conns []net.Conn
	for range 1000 {
		c, err := net.Dial("udp", net.JoinHostPort(args[0], "53"))
		if err != nil {
			return err
		}
		conns = append(conns, c)
	}
	return untilClosed(func(stop <-chan struct{}) (int, error) { return Flood(conns, rate, stop), nil })
}

// resolveAll queries a nameserver for new names, as a victim of an attack, and prints the
// result.
func resolveAll(args []string) error {
	var c Tally
	for i := range 100 {
		if err := c.Ask(From("udp", ""), net.JoinHostPort(args[0], "53"), fmt.Sprintf("%s-%d.example.", args[1], i)); err != nil {
			return err
		}
		time.Sleep(10 * time.Millisecond)
	}
	fmt.Println(&c)
	return nil
}

// untilClosed runs send until standard input is closed. It prints when it has started, and
// then how much was sent.
func untilClosed(send func(stop <-chan struct{}) (int, error)) error {
	stop := make(chan struct{})
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		close(stop)
	}()
	fmt.Println("started")
	n, err := send(stop)
	fmt.Println("sent", n)
	return err
}

// Running reports whether stop is not closed.
func Running(stop <-chan struct{}) bool {
	select {
	case <-stop:
		return false
	default:
		return true
	}
}
