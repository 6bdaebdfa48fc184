// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// TestRunOnExit checks the state of the seal after a stop and after a crash of `run`.
func TestRunOnExit(t *testing.T) {
	w := newWorld(t)
	a := w.cgroup("a")
	ask := func() string { return w.dig(w.host, a, "+timeout=2", "@8.8.8.8", "exit.example") }
	closed := func(when string) {
		t.Helper()
		if out := ask(); strings.Contains(out, "ANSWER SECTION") {
			t.Errorf("%s it was answered:\n%s", when, out)
		}
	}
	answered := func(when, by string) {
		t.Helper()
		if out := ask(); !strings.Contains(out, by) {
			t.Errorf("%s not answered with %s:\n%s", when, by, out)
		}
	}
	start := func(onExit string) *process {
		t.Helper()
		return w.start("sealed", append(w.runArgs(a), "--on-exit="+onExit)...)
	}

	p := start("strict")
	answered("strict:", sealed4)
	w.kill(p)
	closed("strict, after a crash,")
	p = start("strict") // adopts the leftovers
	answered("strict, started again:", sealed4)
	w.stop(p)
	answered("strict, stopped:", plain4)
	w.nothingLeft()

	p = start("closed")
	w.stop(p)
	if !strings.Contains(p.log(), "sotto down") {
		t.Error("it did not log how to open the seal")
	}
	closed("closed, after a stop,")
	p = start("closed")
	answered("closed, started again:", sealed4)
	w.stop(p)
	if out, errs, status := w.sotto("down"); status != 0 {
		t.Fatalf("down: %d\n%s%s", status, out, errs)
	}
	answered("closed, taken down:", plain4)
	w.nothingLeft()

	p = start("open")
	answered("open:", sealed4)
	w.kill(p)
	w.until("the seal to open", func() bool { return strings.Contains(ask(), plain4) })
	p = start("open")
	answered("open, started again:", sealed4)
	w.stop(p)
	answered("open, stopped:", plain4)
	w.nothingLeft()
}

// TestGuardFlag checks the modes of the guard: packets that no hook redirects are dropped,
// counted or ignored.
func TestGuardFlag(t *testing.T) {
	w := newWorld(t)
	for _, mode := range []string{"drop", "count", "off"} {
		// A raw socket gets EPERM if its packet was dropped.
		_, errs, status := w.sotto(append(append([]string{"exec", "--guard", mode}, w.upstreamArgs()...), append([]string{"--"}, client("raw-once")...)...)...)
		dropped := status != 0 && strings.Contains(errs, "operation not permitted")
		if dropped != (mode == "drop") {
			t.Errorf("--guard=%s: status %d\n%s", mode, status, errs)
		}
	}
	if _, errs, status := w.sotto("run", "--guard=maybe", "--check"); status != exitUsage || !strings.Contains(errs, "drop, count or off") {
		t.Errorf("--guard=maybe: status %d\n%s", status, errs)
	}
	if _, errs, status := w.sotto("run", "--on-exit=never", "--check"); status != exitUsage || !strings.Contains(errs, "strict, open or closed") {
		t.Errorf("--on-exit=never: status %d\n%s", status, errs)
	}
}

// rawOnce sends a query from a raw socket, which no hook redirects.
func rawOnce([]string) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_UDP)
	if err != nil {
		return err
	}
	query := packed(7, "raw.example.")
	datagram := append([]byte{0x9c, 0x40, 0, 53, 0, byte(8 + len(query)), 0, 0}, query...)
	err = unix.Sendto(fd, datagram, 0, &unix.SockaddrInet4{Addr: [4]byte{8, 8, 8, 8}})
	return errors.Join(err, unix.Close(fd))
}
