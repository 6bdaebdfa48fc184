// SPDX-License-Identifier: Apache-2.0

package client

import (
	"context"
	"fmt"
	"net"
	"strings"
	"time"
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
