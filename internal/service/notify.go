// SPDX-License-Identifier: Apache-2.0

package service

import (
	"fmt"
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// Ready means that the start or a reload has finished.
	Ready = "READY=1"
	// Stopping means that the service has begun to stop.
	Stopping = "STOPPING=1"

	// Alive is the keep-alive of the watchdog.
	Alive = "WATCHDOG=1"
)

// TookOver is [Ready] of a process that has taken over: it becomes the main process of the
// service.
func TookOver() string { return fmt.Sprintf("MAINPID=%d\n%s", os.Getpid(), Ready) }

// Reloading must be followed by [Ready]. The time distinguishes it from an earlier reload.
func Reloading() string {
	var now unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_MONOTONIC, &now) // every kernel has this clock
	return fmt.Sprintf("RELOADING=1\nMONOTONIC_USEC=%d", time.Duration(now.Nano()).Microseconds())
}

// Notify sends a state to the service manager's socket ($NOTIFY_SOCKET), if it is not "". It
// ignores errors, because a service manager that waits for a notification reports a timeout
// itself.
func Notify(socket, state string) {
	if socket == "" {
		return
	}
	c, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: socket, Net: "unixgram"})
	if err != nil {
		return
	}
	defer c.Close()
	_, _ = c.Write([]byte(state))
}
