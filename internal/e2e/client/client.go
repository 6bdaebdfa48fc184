// SPDX-License-Identifier: Apache-2.0

package client

import (
	"fmt"
	"os"

	"github.com/miekg/dns"
)

// Answer4 and Answer6 are the addresses in the answers of the upstream.
const Answer4, Answer6 = "192.0.2.1", "2001:db8::1"

// clients are the programs by their names.
var clients = map[string]func(args []string) error{
	"go-lookups":  goLookups,
	"go-lookup":   goLookup,
	"four":        fourNameservers,
	"connected":   connected,
	"mapped":      mappedAddresses,
	"pipelined":   pipelinedTCP,
	"unspec":      unspecFamily,
	"many":        manyConnects,
	"dial-unused": dialUnused,
	"bound":       boundToInterface,
	"raw-once":    rawOnce,
	"load":        runLoad,
	"keep":        keptSocket,
	"edns":        ednsQuestions,
	"flood":       floodSealed,
	"spoof":       spoof,
	"resolve-all": resolveAll,
	"lookup":      lookup,
	"sequence":    sequence,
	"named":       named,
	"unanswered":  unanswered,
	"same":        sameAnswers,
	"versions":    versions,
	"hit-times":   hitTimes,
}

// Main runs the client with this name and returns its exit status.
func Main(name string, args []string) int {
	f, ok := clients[name]
	if !ok {
		fmt.Fprintf(os.Stderr, "no client %q\n", name)
		return 2
	}
	if err := f(args); err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n", name, err)
		return 1
	}
	fmt.Println("ok")
	return 0
}

// packed returns a query for the A records of name.
func packed(id uint16, name string) []byte {
	m := new(dns.Msg)
	m.SetQuestion(name, dns.TypeA)
	m.Id = id
	b, err := m.Pack()
	if err != nil {
		panic(err)
	}
	return b
}

// checkReply returns an error unless a reply is the upstream's answer to the query with id.
func checkReply(b []byte, id uint16) error {
	m := new(dns.Msg)
	if err := m.Unpack(b); err != nil {
		return err
	}
	if m.Id != id || len(m.Answer) != 1 {
		return fmt.Errorf("got ID %d with %v: want ID %d and one record", m.Id, m.Answer, id)
	}
	if a, ok := m.Answer[0].(*dns.A); !ok || a.A.String() != Answer4 {
		return fmt.Errorf("got %v: want %s", m.Answer[0], Answer4)
	}
	return nil
}
