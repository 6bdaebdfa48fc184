// SPDX-License-Identifier: Apache-2.0

package check

import (
	"os"
	"strings"
	"testing"

	"sotto/internal/dnstest"
	"sotto/internal/e2e"
)

// TestInterrupt checks that an interrupted check removes its seal.
func TestInterrupt(t *testing.T) {
	w := newWorld(t)
	zone := w.Zone(e2e.Sealed4, e2e.Sealed6)
	asked := make(chan struct{}, 16)
	w.Handler.Set(dnstest.HandlerFunc(func(r *dnstest.Request) dnstest.Answer {
		if strings.Contains(string(r.Query), "sotto-check") {
			asked <- struct{}{}
			return dnstest.Answer{} // none
		}
		return zone.Answer(r)
	}))
	p, err := w.Launch(nil, append([]string{"check"}, w.UpstreamArgs()...)...)
	if err != nil {
		t.Fatal(err)
	}
	<-asked
	if err := p.Cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	<-p.Done
	if got := p.Cmd.ProcessState.ExitCode(); got != e2e.ExitFailure || !strings.Contains(p.Log(), "sotto: the check was interrupted") {
		t.Errorf("status %d:\n%s", got, p.Log())
	}
	w.NothingLeft()
}
