// SPDX-License-Identifier: Apache-2.0

package client

import (
	"context"
	"fmt"
	"net"
	"time"
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
