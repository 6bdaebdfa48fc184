// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"net"
	"path/filepath"
	"regexp"
	"testing"
	"time"
)

// TestNotify: the service manager receives the notifications of a reload.
func TestNotify(t *testing.T) {
	path := filepath.Join(t.TempDir(), "notify")
	c, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for _, tc := range []struct{ state, want string }{
		{stateReady, `^READY=1$`},
		{stateReloading(), `^RELOADING=1\nMONOTONIC_USEC=[1-9][0-9]*$`},
	} {
		notify(path, tc.state)
		_ = c.SetReadDeadline(time.Now().Add(10 * time.Second))
		buf := make([]byte, 256)
		n, err := c.Read(buf)
		if err != nil || !regexp.MustCompile(tc.want).Match(buf[:n]) {
			t.Errorf("%q, %v: want %s", buf[:n], err, tc.want)
		}
	}
	notify("", stateReady)
	notify(path+"x", stateReady)
}
