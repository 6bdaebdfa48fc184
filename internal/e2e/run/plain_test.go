// SPDX-License-Identifier: Apache-2.0

package run

import (
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"sotto/internal/e2e"
	"sotto/internal/netlab/labtest"
)

// TestPlainFlows: queries that a rule sends in plain DNS leave few entries in the connection
// tracking of the host, although their source port changes.
func TestPlainFlows(t *testing.T) {
	labtest.NeedTool(t, "nft")
	const (
		server   = "8.8.8.8"
		queries  = 2000
		maxFlows = 400 // on average a socket sends 40 queries; on a slow machine its time ends earlier
	)
	w := newWorld(t)
	g := w.Cgroup("cluster")
	config := filepath.Join(t.TempDir(), "sotto.toml")
	e2e.WriteFile(t, config, "[[rule]]\nworkload = "+strconv.Quote(glob(g))+"\nuse = \"plain\"\n")
	w.Shell(`nft 'table ip track { chain o { type filter hook output priority 0; ct state new counter; }; }'`)
	p := w.Start("msg=sealed", append(w.RunArgs(g), "--config", config)...)
	_, plain := w.CapturePlain()
	line := e2e.Client("sequence", server, strconv.Itoa(queries))
	if out, err := w.Host.Command(t.Context(), g, line[0], line[1:]...).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	count, err := w.Host.Command(t.Context(), nil, "cat", "/proc/sys/net/netfilter/nf_conntrack_count").Output()
	if err != nil {
		t.Fatal(err)
	}
	flows, err := strconv.Atoi(strings.TrimSpace(string(count)))
	if err != nil {
		t.Fatal(err)
	}
	sent, ports := 0, map[uint16]bool{}
	for _, packet := range plain() {
		if !packet.Response && strings.HasPrefix(packet.Dst.String(), server+":") {
			sent++
			ports[packet.Src.Port()] = true
		}
	}
	t.Logf("%d queries from %d ports left %d entries", sent, len(ports), flows)
	if flows < queries/64 || flows > maxFlows {
		t.Errorf("%d entries: want at most %d, and one for each port", flows, maxFlows)
	}
	if sent < queries || len(ports) < queries/64 {
		t.Errorf("%d queries were sent in plain DNS, from %d ports: a port sends at most 64", sent, len(ports))
	}
	w.Stop(p)
}
