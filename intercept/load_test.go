// SPDX-License-Identifier: Apache-2.0

package intercept

import (
	"testing"

	"github.com/cilium/ebpf"
)

// A command waits until the verifier has followed every path through the programs. The limit is
// twice the number on Linux 6.18; kernels before 6.3 follow more paths.
func TestCommandVerifies(t *testing.T) {
	s := openSeal(t, func(c *Config) { c.Ephemeral = true })
	k := s.kernel
	programs := []*ebpf.Program{k.SottoCollect, k.SottoGuardOutIp, k.SottoGuardOutFrame, k.SottoGuardInIp, k.SottoGuardInFrame, k.SottoGuardBack}
	for _, h := range k.hooks(true) {
		programs = append(programs, h.prog)
	}
	total := uint32(0)
	for _, p := range programs {
		info, err := p.Info()
		if err != nil {
			t.Fatal(err)
		}
		n, ok := info.VerifiedInstructions()
		if !ok {
			t.Skip("the kernel does not report the verified instructions (Linux 5.16)")
		}
		t.Logf("%s: %d", info.Name, n)
		total += n
	}
	if limit := uint32(60_000); total > limit {
		t.Errorf("the verifier followed %d instructions, want at most %d", total, limit)
	}
}
