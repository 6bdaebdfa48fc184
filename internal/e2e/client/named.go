// SPDX-License-Identifier: Apache-2.0

package client

import (
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"time"

	"github.com/miekg/dns"
)

// named is the client "named": KIND NAMESERVER LABEL COUNT asks for COUNT names below
// LABEL.example, each by a socket of its own: a connected one (udp, tcp), or one that is not
// connected (sendto). The sockets stay open until the end of standard input.
func named(args []string) error {
	count, err := strconv.Atoi(args[3])
	if err != nil {
		return err
	}
	to := net.JoinHostPort(args[1], "53")
	for i := range count {
		if err := askNamed(args[0], to, fmt.Sprintf("n%d.%s.example.", i, args[2]), uint16(i)); err != nil {
			return fmt.Errorf("query %d: %w", i, err)
		}
	}
	fmt.Println("asked")
	_, err = io.Copy(io.Discard, os.Stdin)
	return err
}

// open are the sockets of "named": no other socket gets their ports.
var open []any

func askNamed(kind, to, name string, id uint16) error {
	query := packed(id, name)
	buf := make([]byte, 4096)
	end := time.Now().Add(8 * time.Second)
	if kind == "sendto" {
		c, err := net.ListenPacket("udp", ":0")
		if err != nil {
			return err
		}
		open = append(open, c)
		_ = c.SetDeadline(end)
		addr, err := net.ResolveUDPAddr("udp", to)
		if err != nil {
			return err
		}
		if _, err := c.WriteTo(query, addr); err != nil {
			return err
		}
		n, _, err := c.ReadFrom(buf)
		if err != nil {
			return err
		}
		return checkReply(buf[:n], id)
	}
	c, err := net.Dial(kind, to)
	if err != nil {
		return err
	}
	open = append(open, c)
	_ = c.SetDeadline(end)
	conn := &dns.Conn{Conn: c}
	if _, err := conn.Write(query); err != nil {
		return err
	}
	n, err := conn.Read(buf)
	if err != nil {
		return err
	}
	return checkReply(buf[:n], id)
}
