// SPDX-License-Identifier: Apache-2.0

package client

import (
	"context"
	"fmt"
	"net"
	"strconv"
	"strings"
	"time"

	"github.com/miekg/dns"
)

// lookup resolves names by package net. It prints a line for each: the name, then its IPv4
// addresses or the error.
func lookup(names []string) error {
	for _, name := range names {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		addrs, err := net.DefaultResolver.LookupIP(ctx, "ip4", name)
		cancel()
		if err != nil {
			fmt.Println(name, "error:", err)
			continue
		}
		fmt.Println(name, strings.Trim(fmt.Sprint(addrs), "[]"))
	}
	return nil
}

// sequence sends queries to a nameserver from one socket, each after the reply to the previous.
func sequence(args []string) error {
	count, err := strconv.Atoi(args[1])
	if err != nil {
		return err
	}
	conn, err := dns.DialTimeout("udp", net.JoinHostPort(args[0], "53"), 5*time.Second)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	c := &dns.Client{Timeout: 10 * time.Second}
	for i := range count {
		m := new(dns.Msg).SetQuestion(fmt.Sprintf("n%d.example.", i), dns.TypeA)
		if r, _, err := c.ExchangeWithConn(m, conn); err != nil || len(r.Answer) != 1 {
			return fmt.Errorf("query %d: %v, %w", i, r, err)
		}
	}
	return nil
}
