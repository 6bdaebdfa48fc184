// SPDX-License-Identifier: Apache-2.0

package service

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
		{Ready, `^READY=1$`},
		{Reloading(), `^RELOADING=1\nMONOTONIC_USEC=[1-9][0-9]*$`},
	} {
		Notify(path, tc.state)
		_ = c.SetReadDeadline(time.Now().Add(10 * time.Second))
		buf := make([]byte, 256)
		n, err := c.Read(buf)
		if err != nil || !regexp.MustCompile(tc.want).Match(buf[:n]) {
			t.Errorf("%q, %v: want %s", buf[:n], err, tc.want)
		}
	}
	Notify("", Ready)
	Notify(path+"x", Ready)
}

// TestWatchdogTime: keep-alives are expected only from the process that is named.
func TestWatchdogTime(t *testing.T) {
	for _, tc := range []struct {
		usec, pid string
		want      time.Duration
	}{
		{"", "", 0}, {"30000000", "", 30 * time.Second}, {"30000000", "42", 30 * time.Second}, {"30000000", "43", 0},
		{"0", "42", 0}, {"-1", "42", 0}, {"x", "42", 0},
	} {
		env := map[string]string{"WATCHDOG_USEC": tc.usec, "WATCHDOG_PID": tc.pid}
		if got := WatchdogTime(func(name string) string { return env[name] }, 42); got != tc.want {
			t.Errorf("%v: %s, want %s", env, got, tc.want)
		}
	}
}
