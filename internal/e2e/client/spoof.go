// SPDX-License-Identifier: Apache-2.0

package client

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// spoof floods a nameserver with queries from forged source addresses until its standard
// input is closed. It sends to the virtual address of a connected socket of its own, which it
// can read, from a packet socket, which no cgroup hook sees. A raw socket is refused.
func spoof(args []string) error {
	to, err := virtualPeer(args[0])
	if err != nil {
		return err
	}
	raw, err := unix.Socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_RAW)
	if err != nil {
		return err
	}
	defer unix.Close(raw)
	silent := func(n int) []byte {
		query := packed(uint16(n), fmt.Sprintf("silent%d.spoof.example.", n))
		return forged([4]byte{203, 0, 113, byte(n)}, to, uint16(1024+n%60000), query)
	}
	if err := unix.Sendto(raw, silent(0), 0, &unix.SockaddrInet4{Addr: to}); !errors.Is(err, unix.EPERM) {
		return fmt.Errorf("send from a raw socket: %v: want EPERM", err)
	}
	frames, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(frames)
	gateway, err := gatewayLink("eth0", "10.88.0.1")
	if err != nil {
		return err
	}
	return untilClosed(func(stop <-chan struct{}) (sent int, err error) {
		for n := 0; Running(stop); n++ {
			switch err := unix.Sendto(frames, silent(n), 0, gateway); {
			case err == nil:
				sent++
			case !errors.Is(err, unix.ENOBUFS): // the queue is full
				return sent, fmt.Errorf("send a frame: %w", err)
			}
			if n%100 == 0 {
				time.Sleep(10 * time.Millisecond)
			}
		}
		return sent, nil
	})
}

// gatewayLink returns the link-layer address of a gateway, for IPv4 packets.
func gatewayLink(ifname, gateway string) (*unix.SockaddrLinklayer, error) {
	ifi, err := net.InterfaceByName(ifname)
	if err != nil {
		return nil, err
	}
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		c, err := net.Dial("udp4", net.JoinHostPort(gateway, "9"))
		if err != nil {
			return nil, err
		}
		_, _ = c.Write([]byte("x")) // makes the kernel resolve it; nothing listens there
		_ = c.Close()
		text, err := os.ReadFile("/proc/net/arp")
		if err != nil {
			return nil, err
		}
		for line := range strings.Lines(string(text)) {
			f := strings.Fields(line)
			if len(f) < 6 || f[0] != gateway || f[5] != ifname {
				continue
			}
			if mac, err := net.ParseMAC(f[3]); err == nil && !slices.Equal(mac, make([]byte, 6)) {
				to := &unix.SockaddrLinklayer{Protocol: binary.NativeEndian.Uint16([]byte{0x08, 0x00}), Ifindex: ifi.Index, Halen: 6}
				copy(to.Addr[:], mac)
				return to, nil
			}
		}
	}
	return nil, fmt.Errorf("no link-layer address of %s on %s", gateway, ifname)
}

// virtualPeer returns the virtual address that a socket connected to a nameserver has as its
// peer.
func virtualPeer(nameserver string) ([4]byte, error) {
	c, err := net.Dial("udp4", net.JoinHostPort(nameserver, "53"))
	if err != nil {
		return [4]byte{}, err
	}
	defer c.Close()
	text, err := os.ReadFile("/proc/self/net/udp")
	if err != nil {
		return [4]byte{}, err
	}
	local := fmt.Sprintf(":%04X", c.LocalAddr().(*net.UDPAddr).Port)
	for line := range strings.Lines(string(text)) {
		f := strings.Fields(line)
		if len(f) < 3 || !strings.HasSuffix(f[1], local) {
			continue
		}
		n, err := strconv.ParseUint(strings.TrimSuffix(f[2], ":0035"), 16, 32)
		var to [4]byte
		binary.NativeEndian.PutUint32(to[:], uint32(n))
		return to, err
	}
	return [4]byte{}, errors.New("the socket is not in /proc/self/net/udp")
}

// forged returns an IPv4 packet to port 53 with a source address of choice.
func forged(from, to [4]byte, port uint16, query []byte) []byte {
	b := make([]byte, 28, 28+len(query))
	b[0], b[8], b[9] = 0x45, 64, unix.IPPROTO_UDP
	binary.BigEndian.PutUint16(b[2:], uint16(28+len(query)))
	copy(b[12:], from[:])
	copy(b[16:], to[:])
	var sum uint32 // RFC 1071
	for i := 0; i < 20; i += 2 {
		sum += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	sum = sum&0xffff + sum>>16
	binary.BigEndian.PutUint16(b[10:], ^uint16(sum+sum>>16))
	binary.BigEndian.PutUint16(b[20:], port)
	binary.BigEndian.PutUint16(b[22:], 53)
	binary.BigEndian.PutUint16(b[24:], uint16(8+len(query))) // without a checksum, which IPv4 allows
	return append(b, query...)
}
