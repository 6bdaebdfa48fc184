// SPDX-License-Identifier: Apache-2.0

package intercept

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"sotto/intercept/netns"
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

// endPlainSockets ends the sealed workloads' sockets that are connected to a
// nameserver since before there was a seal: their owners hear ECONNABORTED, and connect
// again, sealed. What cannot be ended here the guard stops, so that a failure costs its
// client a wait, and nothing leaks.
func (i *Instance) endPlainSockets() {
	ended := 0
	spaces, err := i.workloadSpaces()
	errs := []error{err}
	for _, ns := range spaces {
		err := ns.Do(func() error {
			for _, family := range []uint8{unix.AF_INET, unix.AF_INET6} {
				for _, protocol := range []uint8{unix.IPPROTO_UDP, unix.IPPROTO_TCP, unix.IPPROTO_UDPLITE} {
					n, err := i.endPlain(family, protocol)
					ended += n
					if err != nil {
						return err
					}
				}
			}
			return nil
		})
		errs = append(errs, err, ns.Close())
	}
	if err := errors.Join(errs...); err != nil {
		i.cfg.Log.Warn("cannot end every socket that was connected to a nameserver before; what it sends is stopped, until its program connects again", "err", err)
	}
	if ended > 0 {
		i.cfg.Log.Info("ended sockets that were connected to nameservers before the seal", "sockets", ended)
	}
}

// workloadSpaces returns the network namespaces in which sealed processes live, and
// the host's. The caller closes them.
func (i *Instance) workloadSpaces() ([]*netns.NS, error) {
	home, err := netns.OpenPath(fmt.Sprintf("/proc/self/fd/%d", i.network.home.Fd()))
	if err != nil {
		return nil, err
	}
	spaces := []*netns.NS{home}
	for _, g := range i.groups {
		pids, err := procsBelow(g.Path)
		if err != nil {
			return spaces, err
		}
		for _, pid := range pids {
			ns, err := netns.OpenPath(fmt.Sprintf("/proc/%d/ns/net", pid))
			if err != nil {
				continue // it ended, or lives where this process cannot look
			}
			if slices.ContainsFunc(spaces, func(s *netns.NS) bool { return s.ID() == ns.ID() }) {
				if err := ns.Close(); err != nil {
					return spaces, err
				}
				continue
			}
			spaces = append(spaces, ns)
		}
	}
	return spaces, nil
}

// endPlain ends such sockets of one kind in the calling thread's namespace.
func (i *Instance) endPlain(family, protocol uint8) (ended int, err error) {
	found, err := listSockets(family, protocol)
	if errors.Is(err, unix.ENOENT) {
		return 0, nil // this kernel has no such protocol
	}
	if err != nil {
		return 0, err
	}
	for _, s := range found {
		if !i.isPlain(s) {
			continue
		}
		switch err := s.destroy(); {
		case err == nil:
			ended++
		case errors.Is(err, unix.ENOENT): // it just went
		case errors.Is(err, unix.EOPNOTSUPP):
			return ended, fmt.Errorf("end sockets: this kernel cannot (CONFIG_INET_DIAG_DESTROY): %w", err)
		default:
			return ended, fmt.Errorf("end the socket to %s: %w", s.remote, err)
		}
	}
	return ended, nil
}

// isPlain tells whether a socket is one that the hooks would have led to the
// listener, had they been there.
func (i *Instance) isPlain(s diagSocket) bool {
	remote := s.remote.Addr()
	if !slices.Contains(i.cfg.Ports, s.remote.Port()) || remote.IsUnspecified() || remote.IsLoopback() || remote.IsMulticast() ||
		block4.Contains(remote) || block6.Contains(remote) || i.cfg.Prefix4.Contains(remote) || i.cfg.Prefix6.Contains(remote) ||
		s.state == stateTimeWait || s.state == stateNewSynRecv {
		return false
	}
	path := i.workloads.path(s.cgroup)
	return path != "" && i.within(path, i.cfg.Cgroups) && !i.within(path, i.cfg.Exclude)
}

// within tells whether a workload is one of those named by their directories, or
// below one.
func (i *Instance) within(path string, dirs []string) bool {
	return slices.ContainsFunc(dirs, func(dir string) bool {
		top, ok := strings.CutPrefix(dir, i.workloads.root)
		return ok && (top == "" || path == top || strings.HasPrefix(path, top+"/"))
	})
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
