// SPDX-License-Identifier: Apache-2.0

package hits

import (
	"fmt"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"sotto/internal/netlab"
)

// TestChecksums checks that clients accept the kernel's replies on every path, with checksums that
// the devices compute and without: sockets of the host, and of containers whose addresses are
// masqueraded or not.
func TestChecksums(t *testing.T) {
	w := newWorld(t)
	w.Watch()
	w.configure()
	w.seal()
	bridge, err := w.Lab.Bridge(t.Context(), w.Host, "br7", 7)
	if err != nil {
		t.Fatal(err)
	}
	box, err := w.Lab.Container(bridge, "box")
	if err != nil {
		t.Fatal(err)
	}
	servers := []string{"1.1.1.1", "2606:4700:4700::1111"}
	w.run(w.Host, "same", append([]string{"200", "1", "sums.example"}, servers...)...) // so that the kernel has answers
	check := func(what string, h *netlab.Host) {
		t.Helper()
		before := w.answered()
		w.run(h, "same", append([]string{"40", "2", "sums.example"}, servers...)...)
		if w.answered() < before+20 {
			t.Errorf("%s: the kernel answered only %d queries", what, w.answered()-before)
		}
	}
	for _, offload := range []bool{true, false} {
		for _, end := range []struct {
			h    *netlab.Host
			link string
		}{{w.Host, "sotto0"}, {w.Host, "br7-2"}, {w.Host, "br7"}, {box, "eth0"}} {
			if err := end.h.Do(func() error { return setOffload(end.link, offload) }); err != nil {
				t.Fatalf("%s: %v", end.link, err)
			}
		}
		check(fmt.Sprintf("host, offload %v", offload), w.Host)
		check(fmt.Sprintf("masqueraded container, offload %v", offload), box)
	}
	w.Shell("nft flush ruleset")
	check("container that is not masqueraded, no offload", box)
}

// setOffload turns the computation of checksums by a device on or off, for packets that it sends
// (ethtool -K LINK tx).
func setOffload(link string, on bool) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	value := struct{ cmd, data uint32 }{cmd: unix.ETHTOOL_STXCSUM}
	if on {
		value.data = 1
	}
	var req struct {
		name [unix.IFNAMSIZ]byte
		data unsafe.Pointer
		_    [16]byte
	}
	copy(req.name[:], link)
	req.data = unsafe.Pointer(&value)
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCETHTOOL, uintptr(unsafe.Pointer(&req))); errno != 0 {
		return errno
	}
	return nil
}
