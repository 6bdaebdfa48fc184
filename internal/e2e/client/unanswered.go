// SPDX-License-Identifier: Apache-2.0

package client

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// unanswered is the client "unanswered": KIND ARGUMENT sends a query that gets no reply.
func unanswered(args []string) error {
	kind, arg := args[0], args[1]
	switch kind {
	case "raw": // a query for the name by a raw socket
		return ignoreDropped(sendRaw(datagramTo53(arg)))
	case "flood": // as many of them as the next argument says
		return floodRaw(datagramTo53(arg), args[2])
	case "frame": // by a packet socket
		return ignoreDropped(sendFrame(datagramTo53(arg)))
	case "short", "response": // a message without a header, or a response
		m := packed(7, arg)
		if m[2] |= 0x80; kind == "short" {
			m = m[:5]
		}
		return sendConnected(m)
	case "connect": // to an address that refuses: a virtual one
		if c, err := net.Dial(args[2], net.JoinHostPort(arg, "53")); err == nil {
			return errors.Join(fmt.Errorf("connected to %s", arg), c.Close())
		}
		return nil
	case "share": // connects to as many nameservers as are allowed, and to one more
		return connectShare(arg)
	case "kept": // connects, and sends a query for the name when a line arrives
		c, err := net.Dial("udp4", "8.8.8.8:53")
		if err != nil {
			return err
		}
		defer c.Close()
		fmt.Println("connected")
		bufio.NewScanner(os.Stdin).Scan()
		_, err = c.Write(packed(7, arg))
		return err
	}
	return fmt.Errorf("no kind %q", kind)
}

// ignoreDropped returns err unless it says that a filter dropped the packet.
func ignoreDropped(err error) error {
	if errors.Is(err, unix.EPERM) || errors.Is(err, unix.ENOBUFS) {
		return nil
	}
	return err
}

// datagramTo53 returns a UDP datagram with a query for the name.
func datagramTo53(name string) []byte {
	query := packed(7, name)
	return append([]byte{0x9c, 0x40, 0, 53, 0, byte(8 + len(query)), 0, 0}, query...)
}

func floodRaw(datagram []byte, count string) error {
	n, err := strconv.Atoi(count)
	if err != nil {
		return err
	}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_UDP)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	for range n {
		if err := unix.Sendto(fd, datagram, 0, &unix.SockaddrInet4{Addr: [4]byte{8, 8, 8, 8}}); ignoreDropped(err) != nil {
			return err
		}
	}
	return nil
}

func sendRaw(datagram []byte) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_UDP)
	if err != nil {
		return err
	}
	err = unix.Sendto(fd, datagram, 0, &unix.SockaddrInet4{Addr: [4]byte{8, 8, 8, 8}})
	return errors.Join(err, unix.Close(fd))
}

// sendFrame sends a datagram as a frame with a VLAN tag by the interface to the LAN.
func sendFrame(datagram []byte) error {
	l, err := net.InterfaceByName("eth0")
	if err != nil {
		return err
	}
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	frame := append([]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, l.HardwareAddr...)
	frame = append(frame, 0x81, 0x00, 0x00, 0x07, 0x08, 0x00)
	frame = append(frame, 0x45, 0, 0, byte(20+len(datagram)), 0, 0, 0, 0, 64, unix.IPPROTO_UDP, 0, 0, 10, 77, 0, 2, 8, 8, 8, 8)
	return unix.Sendto(fd, append(frame, datagram...), 0, &unix.SockaddrLinklayer{Ifindex: l.Index, Halen: 6})
}

// sendConnected sends a message from a connected socket, and does not wait for a reply.
func sendConnected(m []byte) error {
	c, err := net.Dial("udp4", "8.8.8.8:53")
	if err != nil {
		return err
	}
	_, err = c.Write(m)
	return errors.Join(err, c.Close())
}

// connectShare connects sockets until one is refused. It fails if that is after more than limit.
func connectShare(limit string) error {
	most, err := strconv.Atoi(limit)
	if err != nil {
		return err
	}
	base := binary.BigEndian.Uint32([]byte{100, 64, 0, 0})
	for i := range uint32(most) {
		fd, err := udpSocket(unix.AF_INET)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		to := netip.AddrFrom4([4]byte(binary.BigEndian.AppendUint32(nil, base+i)))
		if unix.Connect(fd, sockaddr4(to.String())) != nil {
			return nil
		}
	}
	return fmt.Errorf("%d sockets are connected", most)
}
