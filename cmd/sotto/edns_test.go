// SPDX-License-Identifier: Apache-2.0

package main

import (
	"testing"

	"sotto/internal/e2e/client"
	"sotto/internal/ednstest"
)

// TestServeEDNS sends the same queries to `serve`; the tests of exec and run send them through
// the seal.
func TestServeEDNS(t *testing.T) {
	addr, _ := startChild(t, zoneServer(t)...)
	for _, q := range ednstest.Questions {
		for _, proto := range []string{"udp", "tcp"} {
			reply, err := client.Exchange(proto, addr, q.Query())
			if err == nil {
				err = q.Check(reply, proto == "udp")
			}
			if err != nil {
				t.Errorf("%s over %s: %v", q.Name, proto, err)
			}
		}
	}
}
