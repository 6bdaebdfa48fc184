// SPDX-License-Identifier: Apache-2.0

package client

import (
	"bufio"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"syscall"
	"time"
)

// keptSocket is the client "keep": a connected socket that sends a query for each line on
// standard input, and prints the peer address that the kernel has for it: that of its slot.
func keptSocket([]string) error {
	c, err := net.Dial("udp4", "8.8.8.8:53")
	if err != nil {
		return err
	}
	defer c.Close()
	mine := fmt.Sprintf(":%04X", c.LocalAddr().(*net.UDPAddr).Port)
	buf := make([]byte, 4096)
	for in, n := bufio.NewScanner(os.Stdin), uint16(0); in.Scan(); n++ {
		// A socket reports the ICMP error of a closed listener at the next call.
		ignore := in.Text() == IgnoreRefused
		_ = c.SetDeadline(time.Now().Add(8 * time.Second))
		query := packed(n, fmt.Sprintf("kept%d.example.", n))
		for _, err = c.Write(query); ignore && errors.Is(err, syscall.ECONNREFUSED); _, err = c.Write(query) {
		}
		if err != nil {
			return err
		}
		got, err := c.Read(buf)
		if err == nil {
			err = checkReply(buf[:got], n)
		}
		if err != nil {
			return err
		}
		table, err := os.ReadFile("/proc/thread-self/net/udp")
		if err != nil {
			return err
		}
		for line := range strings.Lines(string(table)) {
			if f := strings.Fields(line); len(f) > 2 && strings.HasSuffix(f[1], mine) {
				fmt.Println(f[2])
			}
		}
	}
	return nil
}

// IgnoreRefused is the line that makes "keep" ignore errors of the time without a listener.
const IgnoreRefused = "ignore"
