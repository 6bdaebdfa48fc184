// SPDX-License-Identifier: Apache-2.0

package client

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"

	"golang.org/x/sys/unix"
)

// manyConnects connects UDP sockets to port 53 of 200,000 addresses, without sending, as Go's
// address sorting does with the addresses of a name. Then it sends queries.
func manyConnects(servers []string) error {
	for i := range 200_000 {
		fd, err := udpSocket(unix.AF_INET)
		if err != nil {
			return err
		}
		sa := &unix.SockaddrInet4{Port: 53, Addr: [4]byte{100, byte(64 + i>>16), byte(i >> 8), byte(i)}}
		err = unix.Connect(fd, sa)
		unix.Close(fd)
		if err != nil {
			return fmt.Errorf("connect %d: %w", i, err)
		}
	}
	return connected(servers)
}

// dialUnused connects sockets to more nameservers than there are slots, and keeps them open.
// It prints how many it could connect, and waits until its standard input is closed.
func dialUnused(args []string) error {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return err
	}
	connected := 0
	for i := range int(limit.Cur) - 100 {
		fd, err := udpSocket(unix.AF_INET)
		if err != nil {
			return err
		}
		sa := &unix.SockaddrInet4{Port: 53, Addr: [4]byte{100, 64, byte(i >> 8), byte(i)}}
		if err := unix.Connect(fd, sa); err != nil {
			unix.Close(fd)
			break
		}
		connected++
	}
	fmt.Printf("holding %d\n", connected)
	_, err := io.Copy(io.Discard, os.Stdin)
	return err
}

// boundToInterface sends queries from sockets that are bound to an interface, by
// SO_BINDTODEVICE or IP_UNICAST_IF (as systemd-resolved does). Neither may get an answer of a
// plain nameserver. An answer of the upstream is allowed: until Linux 6.1 connect ignores
// IP_UNICAST_IF, and the query is redirected to the listener.
func boundToInterface(servers []string) error {
	link, err := net.InterfaceByName("eth0")
	if err != nil {
		return err
	}
	index := binary.NativeEndian.Uint32(binary.BigEndian.AppendUint32(nil, uint32(link.Index)))
	for how, set := range map[string]func(fd int) error{
		"SO_BINDTODEVICE": func(fd int) error { return unix.BindToDevice(fd, link.Name) },
		"IP_UNICAST_IF":   func(fd int) error { return unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_UNICAST_IF, int(index)) },
	} {
		for _, connects := range []bool{false, true} {
			if err := askBound(set, servers[0], connects); err != nil {
				return fmt.Errorf("%s, connected %v: %w", how, connects, err)
			}
		}
	}
	return nil
}

func askBound(set func(fd int) error, server string, connects bool) error {
	fd, err := udpSocket(unix.AF_INET)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	tv := unix.Timeval{Usec: 300_000}
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &tv); err != nil {
		return err
	}
	if err := set(fd); err != nil {
		return err
	}
	sa := sockaddr4(server)
	if connects {
		if unix.Connect(fd, sa) != nil {
			return nil // refused
		}
		_, err = unix.Write(fd, packed(1, "bound.example."))
	} else {
		err = unix.Sendto(fd, packed(1, "bound.example."), 0, sa)
	}
	if err != nil {
		return nil // refused
	}
	answer := make([]byte, 512)
	n, _, err := recvfrom(fd, answer)
	if sealed := netip.MustParseAddr(Answer4); err == nil && !bytes.Contains(answer[:n], sealed.AsSlice()) {
		return fmt.Errorf("an answer of %d bytes that is not the upstream's", n)
	}
	return nil
}

// rawOnce sends a query from a raw socket, which no hook redirects.
func rawOnce([]string) error { return sendRaw(datagramTo53("raw.example.")) }
