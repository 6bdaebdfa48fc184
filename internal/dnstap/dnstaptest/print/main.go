// SPDX-License-Identifier: Apache-2.0

// Command print prints the queries of clients in a dnstap file (standard input), one per line:
// name, nameserver, protocol, workload and its name. It is for tests in scripts: dnstap-ldns does
// not print the field extra.
package main

import (
	"fmt"
	"net/netip"
	"os"
	"strings"

	"github.com/miekg/dns"

	"sotto/internal/dnstap/dnstaptest"
)

func main() {
	all, err := dnstaptest.Decode(os.Stdin)
	for _, m := range all {
		var msg dns.Msg
		if m.QueryMessage == nil || m.Extra.Workload == "" || msg.Unpack(m.QueryMessage) != nil || len(msg.Question) == 0 {
			continue
		}
		to, _ := netip.AddrFromSlice(m.ResponseAddress)
		fmt.Println(msg.Question[0].Name, to, strings.ToLower(m.GetSocketProtocol().String()), m.Extra.Workload, m.Extra.Name)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
