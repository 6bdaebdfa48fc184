// SPDX-License-Identifier: Apache-2.0

package client

import (
	"bufio"
	"fmt"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/miekg/dns"
)

// versions asks for the address of a name, the first argument, at the nameservers that follow, as fast
// as it can, until its standard input is closed. A line of that is the only address that replies may
// have from then on, or "any"; it writes "ok" when all later queries are checked so. Queries that are
// lost are counted, not repeated. It writes the number of replies at the end.
func versions(args []string) error {
	v := &versioned{}
	v.expect("any")
	var wg sync.WaitGroup
	stop := make(chan struct{})
	for _, server := range args[1:] {
		for range 2 {
			wg.Go(func() { v.ask(server, args[0], stop) })
		}
	}
	in := bufio.NewScanner(os.Stdin)
	for in.Scan() {
		v.expect(in.Text())
		fmt.Println("ok", v.replies.Load())
	}
	close(stop)
	wg.Wait()
	fmt.Println("replies", v.replies.Load(), "lost", v.lost.Load())
	if err := v.wrong.Load(); err != nil {
		return *err
	}
	return in.Err()
}

type versioned struct {
	expected      atomic.Pointer[string]
	wrong         atomic.Pointer[error]
	replies, lost atomic.Uint64
}

func (v *versioned) expect(address string) { v.expected.Store(&address) }

// ask queries until stop is closed.
func (v *versioned) ask(server, name string, stop <-chan struct{}) {
	query := packed(1, dns.Fqdn(name))
	fail := func(err error) { v.wrong.CompareAndSwap(nil, &err) }
	c, err := net.Dial("udp", net.JoinHostPort(server, "53"))
	if err != nil {
		fail(err)
		return
	}
	defer c.Close()
	reply := make([]byte, 4096)
	for id := uint16(0); Running(stop); id++ {
		query[0], query[1] = byte(id>>8), byte(id)
		want := v.expected.Load()
		if _, err := c.Write(query); err != nil {
			v.lost.Add(1) // nothing listens
			time.Sleep(time.Millisecond)
			continue
		}
		_ = c.SetReadDeadline(time.Now().Add(200 * time.Millisecond))
		n, err := c.Read(reply)
		for err == nil && n > 1 && (reply[0] != query[0] || reply[1] != query[1]) { // a late one
			n, err = c.Read(reply)
		}
		if err != nil {
			v.lost.Add(1)
			continue
		}
		v.replies.Add(1)
		if v.expected.Load() != want || *want == "any" {
			continue
		}
		if err := hasAddress(reply[:n], *want); err != nil {
			fail(err)
		}
	}
}

// hasAddress checks that a reply has one record, with that address.
func hasAddress(reply []byte, want string) error {
	m := new(dns.Msg)
	if err := m.Unpack(reply); err != nil {
		return err
	}
	if a, ok := first(m.Answer).(*dns.A); !ok || a.A.String() != want {
		return fmt.Errorf("want %s, got\n%v", want, m)
	}
	return nil
}
