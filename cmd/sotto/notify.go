// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// What a service manager is told (sd_notify(3)).
const stateReady = "READY=1"

// stateReadyInstead is for who took over from another process: the service is this one
// from now on.
func stateReadyInstead() string {
	return fmt.Sprintf("MAINPID=%d\n%s", os.Getpid(), stateReady)
}

// stateReloading is to be followed by stateReady. The time tells the manager that
// it is not about an earlier reload.
func stateReloading() string {
	var now unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_MONOTONIC, &now) // every kernel has that clock
	return fmt.Sprintf("RELOADING=1\nMONOTONIC_USEC=%d", time.Duration(now.Nano()).Microseconds())
}

// notify tells a service manager that waits for it how Sotto is. Without one it
// does nothing; a manager that can't be told would time out and say so itself.
func notify(getenv func(string) string, state string) {
	path := getenv("NOTIFY_SOCKET")
	if path == "" {
		return
	}
	c, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		return
	}
	defer c.Close()
	_, _ = c.Write([]byte(state))
}
