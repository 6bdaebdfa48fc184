// SPDX-License-Identifier: Apache-2.0

package intercept

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// Of linux/sock_diag.h, inet_diag.h and tcp_states.h.
const (
	sockDiagByFamily = 20
	sockDestroy      = 21
	diagCgroupID     = 21 // INET_DIAG_CGROUP_ID

	stateTimeWait   = 6
	stateNewSynRecv = 12

	diagRequestSize = 56
	diagMessageSize = 72
	diagIDAt        = 8 // of struct inet_diag_sockid in the request
	diagIDSize      = 48
	msgIDAt         = 4 // and in a message
)

// endSocketsHere destroys the sockets of the calling thread's network namespace that match:
// their owners get ECONNABORTED. It returns how many there were, and the first failure.
func endSocketsHere(match func(diagSocket) bool) (ended int, err error) {
	for _, family := range []uint8{unix.AF_INET, unix.AF_INET6} {
		for _, protocol := range []uint8{unix.IPPROTO_UDP, unix.IPPROTO_TCP, unix.IPPROTO_UDPLITE} {
			n, err := endSocketsOf(family, protocol, match)
			ended += n
			if err != nil {
				return ended, err
			}
		}
	}
	return ended, nil
}

// endSocketsOf is endSocketsHere for one kind of socket.
func endSocketsOf(family, protocol uint8, match func(diagSocket) bool) (ended int, err error) {
	found, err := listSockets(family, protocol)
	if errors.Is(err, unix.ENOENT) {
		return 0, nil // this kernel has no such protocol
	}
	if err != nil {
		return 0, err
	}
	for _, s := range found {
		if s.state == stateTimeWait || s.state == stateNewSynRecv || !match(s) {
			continue
		}
		switch err := s.destroy(); {
		case err == nil:
			ended++
		case errors.Is(err, unix.ENOENT): // it was closed meanwhile
		case errors.Is(err, unix.EOPNOTSUPP):
			return ended, fmt.Errorf("end sockets: this kernel cannot (CONFIG_INET_DIAG_DESTROY): %w", err)
		default:
			return ended, fmt.Errorf("end the socket to %s: %w", s.remote, err)
		}
	}
	return ended, nil
}

// diagSocket is a socket as the kernel lists it.
type diagSocket struct {
	family, protocol, state uint8
	remote                  netip.AddrPort // unmapped
	cgroup                  uint64
	id                      [diagIDSize]byte
}

// diagRequest is struct inet_diag_req_v2.
type diagRequest [diagRequestSize]byte

func (r *diagRequest) Len() int          { return diagRequestSize }
func (r *diagRequest) Serialize() []byte { return r[:] }

// listSockets lists those of the calling thread's namespace.
func listSockets(family, protocol uint8) ([]diagSocket, error) {
	req := nl.NewNetlinkRequest(sockDiagByFamily, unix.NLM_F_DUMP)
	body := diagRequest{0: family, 1: protocol}
	binary.NativeEndian.PutUint32(body[4:], ^uint32(0)) // in every state
	req.AddData(&body)
	msgs, err := req.Execute(unix.NETLINK_INET_DIAG, 0)
	if err != nil {
		return nil, fmt.Errorf("list sockets: %w", err)
	}
	var out []diagSocket
	for _, m := range msgs {
		if s, ok := parseSocket(m, protocol); ok {
			out = append(out, s)
		}
	}
	return out, nil
}

// parseSocket reads a struct inet_diag_msg with its attributes.
func parseSocket(m []byte, protocol uint8) (s diagSocket, ok bool) {
	if len(m) < diagMessageSize {
		return s, false
	}
	s.family, s.state, s.protocol = m[0], m[1], protocol
	copy(s.id[:], m[msgIDAt:])
	// struct inet_diag_sockid: two ports, two addresses of 16 bytes, in network order.
	port := binary.BigEndian.Uint16(s.id[2:])
	addr := netip.AddrFrom16([16]byte(s.id[20:36])).Unmap()
	if s.family == unix.AF_INET {
		addr = netip.AddrFrom4([4]byte(s.id[20:24]))
	}
	s.remote = netip.AddrPortFrom(addr, port)
	attrs, err := nl.ParseRouteAttr(m[diagMessageSize:])
	if err != nil {
		return s, false
	}
	for _, a := range attrs {
		if a.Attr.Type == diagCgroupID && len(a.Value) >= 8 {
			s.cgroup = binary.NativeEndian.Uint64(a.Value)
		}
	}
	return s, true
}

// destroy ends the socket: its owner hears ECONNABORTED.
func (s *diagSocket) destroy() error {
	req := nl.NewNetlinkRequest(sockDestroy, unix.NLM_F_ACK)
	body := diagRequest{0: s.family, 1: s.protocol}
	binary.NativeEndian.PutUint32(body[4:], 1<<s.state)
	copy(body[diagIDAt:], s.id[:])
	req.AddData(&body)
	_, err := req.Execute(unix.NETLINK_INET_DIAG, 0)
	return err
}
