// SPDX-License-Identifier: Apache-2.0

package client

import (
	"context"
	"fmt"
	"net"
	"strconv"
	"time"

	"github.com/miekg/dns"
)

// lookup resolves names by package net and prints their IPv4 addresses.
func lookup(names []string) error {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	for _, name := range names {
		addrs, err := net.DefaultResolver.LookupIP(ctx, "ip4", name)
		if err != nil {
			return err
		}
		for _, a := range addrs {
			fmt.Println(a)
		}
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
