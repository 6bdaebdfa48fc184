// SPDX-License-Identifier: Apache-2.0

package sockets

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// From linux/sock_diag.h, inet_diag.h and tcp_states.h.
const (
	sockDiagByFamily = 20
	sockDestroy      = 21
	diagCgroupID     = 21 // INET_DIAG_CGROUP_ID

	stateTimeWait   = 6
	stateNewSynRecv = 12

	requestSize  = 56
	messageSize  = 72
	requestIDAt  = 8 // offset of struct inet_diag_sockid in the request
	messageIDAt  = 4 // and in a message
	idSize       = 48
	idLocalPort  = 0 // offsets in struct inet_diag_sockid, in network byte order
	idRemotePort = 2
	idLocalAddr  = 4
	idRemoteAddr = 20

	messageInodeAt = 68
)

// destroyHere destroys the sockets of the calling thread's network namespace for which match
// returns true. It returns how many there were, and the first failure.
func destroyHere(match func(Socket) bool) (destroyed int, err error) {
	for _, family := range []uint8{unix.AF_INET, unix.AF_INET6} {
		for _, protocol := range []uint8{unix.IPPROTO_UDP, unix.IPPROTO_TCP, unix.IPPROTO_UDPLITE} {
			n, err := destroyKind(family, protocol, match)
			destroyed += n
			if err != nil {
				return destroyed, err
			}
		}
	}
	return destroyed, nil
}

// destroyKind is destroyHere for one family and protocol.
func destroyKind(family, protocol uint8, match func(Socket) bool) (destroyed int, err error) {
	found, err := List(family, protocol)
	if errors.Is(err, unix.ENOENT) {
		return 0, nil // the kernel does not have the protocol
	}
	if err != nil {
		return 0, err
	}
	for _, s := range found {
		if s.state == stateTimeWait || s.state == stateNewSynRecv || !match(s) {
			continue
		}
		switch err := s.Destroy(); {
		case err == nil:
			destroyed++
		case errors.Is(err, unix.ENOENT): // it was closed meanwhile
		case errors.Is(err, unix.EOPNOTSUPP):
			return destroyed, fmt.Errorf("destroy sockets: not supported by this kernel (CONFIG_INET_DIAG_DESTROY): %w", err)
		default:
			return destroyed, fmt.Errorf("destroy the socket connected to %s: %w", s.Remote, err)
		}
	}
	return destroyed, nil
}

// Socket is a socket as the kernel lists it.
type Socket struct {
	Local  netip.AddrPort // unmapped
	Remote netip.AddrPort // unmapped; zero if the socket is not connected
	Cgroup uint64         // ID of the cgroup that the socket belongs to
	Closed bool           // TCP: its program has closed it; the kernel continues until everything is sent

	family, protocol, state uint8
	id                      [idSize]byte
}

// request is struct inet_diag_req_v2.
type request [requestSize]byte

func (r *request) Len() int          { return requestSize }
func (r *request) Serialize() []byte { return r[:] }

// List lists the sockets of the calling thread's network namespace.
func List(family, protocol uint8) ([]Socket, error) {
	req := nl.NewNetlinkRequest(sockDiagByFamily, unix.NLM_F_DUMP)
	body := request{0: family, 1: protocol}
	binary.NativeEndian.PutUint32(body[4:], ^uint32(0)) // in every state
	req.AddData(&body)
	msgs, err := req.Execute(unix.NETLINK_INET_DIAG, 0)
	if err != nil {
		return nil, fmt.Errorf("list sockets: %w", err)
	}
	var out []Socket
	for _, m := range msgs {
		if s, ok := parse(m, protocol); ok {
			out = append(out, s)
		}
	}
	return out, nil
}

// parse decodes a struct inet_diag_msg with its attributes.
func parse(m []byte, protocol uint8) (s Socket, ok bool) {
	if len(m) < messageSize {
		return s, false
	}
	s.family, s.state, s.protocol = m[0], m[1], protocol
	copy(s.id[:], m[messageIDAt:])
	s.Local = s.endpoint(idLocalAddr, idLocalPort)
	s.Closed = protocol == unix.IPPROTO_TCP && binary.NativeEndian.Uint32(m[messageInodeAt:]) == 0
	// A disconnected UDP socket has no remote port, but keeps its IPv6 address (__udp_disconnect, net/ipv4/udp.c).
	if remote := s.endpoint(idRemoteAddr, idRemotePort); remote.Port() != 0 {
		s.Remote = remote
	}
	attrs, err := nl.ParseRouteAttr(m[messageSize:])
	if err != nil {
		return s, false
	}
	for _, a := range attrs {
		if a.Attr.Type == diagCgroupID && len(a.Value) >= 8 {
			s.Cgroup = binary.NativeEndian.Uint64(a.Value)
		}
	}
	return s, true
}

// endpoint reads an address and a port of the socket's ID.
func (s *Socket) endpoint(addrAt, portAt int) netip.AddrPort {
	addr := netip.AddrFrom16([16]byte(s.id[addrAt : addrAt+16])).Unmap()
	if s.family == unix.AF_INET {
		addr = netip.AddrFrom4([4]byte(s.id[addrAt : addrAt+4]))
	}
	return netip.AddrPortFrom(addr, binary.BigEndian.Uint16(s.id[portAt:]))
}

// Destroy destroys the socket. The calling thread is in the network namespace that it was
// listed in.
func (s *Socket) Destroy() error {
	req := nl.NewNetlinkRequest(sockDestroy, unix.NLM_F_ACK)
	body := request{0: s.family, 1: s.protocol}
	binary.NativeEndian.PutUint32(body[4:], 1<<s.state)
	copy(body[requestIDAt:], s.id[:])
	req.AddData(&body)
	_, err := req.Execute(unix.NETLINK_INET_DIAG, 0)
	return err
}
