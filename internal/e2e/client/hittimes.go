// SPDX-License-Identifier: Apache-2.0

package client

import (
	"encoding/json"
	"fmt"
	"net"
	"os"
	"slices"
	"strconv"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/sys/unix"
)

// HitTimes is the result of the client "hit-times": nanoseconds of a round trip that half of them, and
// a tenth of them, did not exceed, and of processor time of the client for each.
type HitTimes struct{ Kernel, User, Loopback RoundTrip }

// RoundTrip is described at HitTimes.
type RoundTrip struct{ P10, P50, CPU int64 }

// hitTimes measures round trips of a cached answer, as many as the first argument says, from the
// kernel and from user space, and those of a datagram that a process sends to itself. The three
// alternate, so that they see the same machine. The second argument names what is measured, "all" or
// one of them.
func hitTimes(args []string) error {
	n, err := strconv.Atoi(args[0])
	if err != nil {
		return err
	}
	sealed, err := connectTo([4]byte{8, 8, 8, 8}, 53)
	if err != nil {
		return err
	}
	own, err := connectToSelf()
	if err != nil {
		return err
	}
	usual := new(dns.Msg).SetQuestion("timed.example.", dns.TypeA).SetEdns0(1232, false)
	padded := usual.Copy()
	padded.IsEdns0().Option = []dns.EDNS0{&dns.EDNS0_PADDING{Padding: make([]byte, 8)}}
	queries := [3][]byte{}
	for i, m := range []*dns.Msg{usual, padded, usual} {
		if queries[i], err = m.Pack(); err != nil {
			return err
		}
	}
	names := []string{"kernel", "user", "loopback"}
	var times [3][]int64
	var cpu [3]int64
	for done := 0; done < n; done += timesRound {
		for i, fd := range []int{sealed, sealed, own} {
			if args[1] != "all" && args[1] != names[i] {
				continue
			}
			before := cpuTime()
			for range timesRound {
				took, err := roundTrip(fd, queries[i])
				if err != nil {
					return err
				}
				times[i] = append(times[i], took)
			}
			cpu[i] += cpuTime() - before
		}
	}
	var out HitTimes
	for i, to := range []*RoundTrip{&out.Kernel, &out.User, &out.Loopback} {
		if n := len(times[i]); n > 0 {
			slices.Sort(times[i])
			*to = RoundTrip{P10: times[i][n/10], P50: times[i][n/2], CPU: cpu[i] / int64(n)}
		}
	}
	return json.NewEncoder(os.Stdout).Encode(out)
}

// timesRound is the number of round trips of one kind before those of the next.
const timesRound = 200

// connectTo returns a blocking socket: its calls cost what those of a C program cost.
func connectTo(addr [4]byte, port int) (int, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, err
	}
	timeout := unix.NsecToTimeval((5 * time.Second).Nanoseconds())
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &timeout); err != nil {
		return 0, err
	}
	return fd, unix.Connect(fd, &unix.SockaddrInet4{Addr: addr, Port: port})
}

// connectToSelf returns a socket that receives what it sends.
func connectToSelf() (int, error) {
	c, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		return 0, err
	}
	port := c.LocalAddr().(*net.UDPAddr).Port
	_ = c.Close()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, err
	}
	self := &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}, Port: port}
	if err := unix.Bind(fd, self); err != nil {
		return 0, err
	}
	return fd, unix.Connect(fd, self)
}

// roundTrip sends a query and receives the reply.
func roundTrip(fd int, query []byte) (nanoseconds int64, err error) {
	var reply [1500]byte
	start := time.Now()
	if _, err := unix.Write(fd, query); err != nil {
		return 0, err
	}
	n, err := unix.Read(fd, reply[:])
	for err == unix.EINTR { // the runtime's signal
		n, err = unix.Read(fd, reply[:])
	}
	if err == nil && (n < 12 || reply[0] != query[0] || reply[1] != query[1]) {
		err = fmt.Errorf("a reply of %d bytes", n)
	}
	return time.Since(start).Nanoseconds(), err
}

// cpuTime returns the processor time of the process in nanoseconds.
func cpuTime() int64 {
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return u.Utime.Nano() + u.Stime.Nano()
}
