// SPDX-License-Identifier: Apache-2.0

package hits

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"

	"sotto/internal/e2e"
	"sotto/internal/e2e/client"
)

// TestTimes reports what a cached answer costs from the kernel and from user space, next to a datagram
// that a process sends to itself. It needs a quiet machine, and runs if SOTTO_TEST_TIMES is the
// number of round trips.
func TestTimes(t *testing.T) {
	count := os.Getenv("SOTTO_TEST_TIMES")
	if count == "" {
		t.Skip("set SOTTO_TEST_TIMES to the number of round trips")
	}
	w := newWorld(t)
	w.configure()
	p := w.seal()
	w.Until("the kernel to answer", func() bool {
		w.digUsual("+edns", "timed.example")
		return w.answered() > 0
	})
	measure := func(n, what string) (out client.HitTimes) {
		t.Helper()
		line := e2e.Client("hit-times", n, what)
		cmd := w.Host.Command(context.Background(), w.group, line[0], line[1:]...)
		cmd.Stderr = os.Stderr
		b, err := cmd.Output()
		if err == nil {
			err = json.NewDecoder(strings.NewReader(string(b))).Decode(&out)
		}
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	r := measure(count, "all")
	for _, v := range []struct {
		name                   string
		kernel, user, loopback int64
	}{{"median", r.Kernel.P50, r.User.P50, r.Loopback.P50}, {"fastest tenth", r.Kernel.P10, r.User.P10, r.Loopback.P10}} {
		t.Logf("round trip (%s): kernel %d ns, user space %d ns, loopback %d ns: kernel/loopback %.2f, user space/kernel %.1f",
			v.name, v.kernel, v.user, v.loopback, float64(v.kernel)/float64(v.loopback), float64(v.user)/float64(v.kernel))
	}
	n, err := strconv.Atoi(count)
	if err != nil {
		t.Fatal(err)
	}
	before := cpuOf(t, p)
	kernel := measure(count, "kernel")
	mid := cpuOf(t, p)
	user := measure(count, "user")
	after := cpuOf(t, p)
	const tick = 10e6 // nanoseconds
	k := float64(kernel.Kernel.CPU) + float64(mid-before)*tick/float64(n)
	u := float64(user.User.CPU) + float64(after-mid)*tick/float64(n)
	t.Logf("processor time per hit, client and Sotto: kernel %.0f ns (client %d), user space %.0f ns (client %d): ratio %.2f",
		k, kernel.Kernel.CPU, u, user.User.CPU, k/u)
}

// cpuOf returns the processor time of a process in ticks of 10 ms.
func cpuOf(t *testing.T, p *e2e.Process) (ticks int) {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.Cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	fields := strings.Fields(string(b[strings.LastIndexByte(string(b), ')')+1:]))
	for _, f := range fields[11:13] { // utime and stime
		n, err := strconv.Atoi(f)
		if err != nil {
			t.Fatal(err)
		}
		ticks += n
	}
	return ticks
}
