// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"fmt"
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// stateReady notifies the service manager (sd_notify(3)) that the service is ready.
const stateReady = "READY=1"

// stateTookOver is stateReady of a process that has taken over: it becomes the main process
// of the service.
func stateTookOver() string {
	return fmt.Sprintf("MAINPID=%d\n%s", os.Getpid(), stateReady)
}

// stateReloading must be followed by stateReady. The time distinguishes it from an earlier
// reload.
func stateReloading() string {
	var now unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_MONOTONIC, &now) // every kernel has this clock
	return fmt.Sprintf("RELOADING=1\nMONOTONIC_USEC=%d", time.Duration(now.Nano()).Microseconds())
}

// notify sends state to the service manager's socket, if there is one. It ignores errors,
// because a service manager that waits for a notification reports a timeout itself.
func notify(socket, state string) {
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
