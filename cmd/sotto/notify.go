// SPDX-License-Identifier: Apache-2.0

package main

import "net"

// notifyReady tells a service manager that waits for it that Sotto is up
// (sd_notify(3)). Without one it does nothing; a manager that can't be told
// would time out and say so itself.
func notifyReady(getenv func(string) string) {
	path := getenv("NOTIFY_SOCKET")
	if path == "" {
		return
	}
	c, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		return
	}
	defer c.Close()
	_, _ = c.Write([]byte("READY=1"))
}
