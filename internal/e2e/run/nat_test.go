// SPDX-License-Identifier: Apache-2.0

package run

import (
	"strings"
	"testing"

	"sotto/internal/e2e"
	"sotto/internal/netlab/labtest"
)

// TestRunFollowsNAT checks that a daemon without privileges exempts the virtual addresses from
// a NAT rule that redirects all DNS of the host and was added after its start, and that
// `down` removes the exemption of a killed daemon.
func TestRunFollowsNAT(t *testing.T) {
	labtest.NeedTool(t, "nft")
	w := newWorld(t)
	w.Watch()
	g := w.Cgroup("workload")
	p := w.Start("msg=sealed", w.RunArgs(g)...)
	has := func(table string) bool {
		out, err := w.Host.Command(t.Context(), nil, "nft", "list", "tables").CombinedOutput()
		if err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		return strings.Contains(string(out), table)
	}
	const force = `nft 'flush ruleset; table ip force { chain o { type nat hook output priority -100; meta l4proto { tcp, udp } th dport 53 dnat to 8.8.4.4; }; }'`
	for range 2 { // the second time it also removes the exemption
		w.Shell(force)
		w.Until("the exemption", func() bool { return has("ip sotto_nat") })
		for _, how := range []string{"+notcp", "+tcp"} {
			if out := w.Dig(w.Host, g, how, "@9.9.9.9", "forced.example"); !strings.Contains(out, e2e.Sealed4) {
				t.Errorf("%s:\n%s", how, out)
			}
		}
	}
	if out, errs, status := w.Exec("dig", "+tries=1", "@9.9.9.9", "forced.example"); status != 0 || !strings.Contains(out, e2e.Sealed4) {
		t.Errorf("exec: status %d\n%s%s", status, out, errs)
	}
	if has("sotto-0_nat") {
		t.Error("exec has left its exemption")
	}
	w.Kill(p)
	if !has("ip sotto_nat") {
		t.Error("the exemption was removed with the process")
	}
	if _, errs, status := w.Sotto("down"); status != 0 {
		t.Errorf("down: status %d\n%s", status, errs)
	}
	w.NothingLeft()
}
