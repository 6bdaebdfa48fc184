// SPDX-License-Identifier: Apache-2.0

package intercept

import (
	"errors"
	"io/fs"
	"os"
	"testing"

	"github.com/vishvananda/netlink"

	"sotto/internal/netlab"
	"sotto/internal/netlab/labtest"
)

// addTunnel adds a TUN interface to a host, which is up until the test ends. It returns the descriptor
// from which its packets can be read. It skips the test if the machine has no /dev/net/tun.
func addTunnel(t testing.TB, host *netlab.Host, name string) *os.File {
	t.Helper()
	attrs := netlink.NewLinkAttrs()
	attrs.Name = name
	tun := &netlink.Tuntap{LinkAttrs: attrs, Mode: netlink.TUNTAP_MODE_TUN, NonPersist: true, Queues: 1, Flags: netlink.TUNTAP_NO_PI}
	err := host.Do(func() error { return netlink.LinkAdd(tun) })
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) {
		labtest.Skip(t, "needs /dev/net/tun")
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = tun.Fds[0].Close() })
	h, err := host.NS.Netlink()
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	link, err := h.LinkByName(name)
	if err == nil {
		err = h.LinkSetUp(link)
	}
	if err != nil {
		t.Fatal(err)
	}
	return tun.Fds[0]
}
