// SPDX-License-Identifier: Apache-2.0

package others

import (
	"errors"
	"io/fs"
	"path/filepath"
	"strings"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"sotto/intercept/attached"
)

// Program is a program of other software on a cgroup.
type Program struct {
	Cgroup string // directory
	Hook   string // as bpftool(8) shows it
	Name   string
	ID     uint32
}

// addressHooks are those that change or refuse the address of a socket's peer.
var addressHooks = []ebpf.AttachType{
	ebpf.AttachCGroupInet4Connect, ebpf.AttachCGroupInet6Connect,
	ebpf.AttachCGroupUDP4Sendmsg, ebpf.AttachCGroupUDP6Sendmsg,
	ebpf.AttachCGroupUDP4Recvmsg, ebpf.AttachCGroupUDP6Recvmsg,
	ebpf.AttachCgroupInet4GetPeername, ebpf.AttachCgroupInet6GetPeername,
}

// packetHooks are those that drop packets.
var packetHooks = []ebpf.AttachType{ebpf.AttachCGroupInetEgress, ebpf.AttachCGroupInetIngress}

// names are those that bpftool(8) shows.
var names = map[ebpf.AttachType]string{
	ebpf.AttachCGroupInet4Connect: "connect4", ebpf.AttachCGroupInet6Connect: "connect6",
	ebpf.AttachCGroupUDP4Sendmsg: "sendmsg4", ebpf.AttachCGroupUDP6Sendmsg: "sendmsg6",
	ebpf.AttachCGroupUDP4Recvmsg: "recvmsg4", ebpf.AttachCGroupUDP6Recvmsg: "recvmsg6",
	ebpf.AttachCgroupInet4GetPeername: "getpeername4", ebpf.AttachCgroupInet6GetPeername: "getpeername6",
	ebpf.AttachCGroupInetEgress: "egress", ebpf.AttachCGroupInetIngress: "ingress",
}

// AddressPrograms returns the programs that change or refuse addresses of sockets (the type
// sock_addr) in the cgroup dir: those on it, on the cgroups above it up to root, and on those
// below it. It needs CAP_NET_ADMIN and CAP_SYS_ADMIN.
func AddressPrograms(root, dir string) ([]Program, error) { return programs(root, dir, addressHooks) }

// PacketPrograms is [AddressPrograms] for the programs that drop packets (the type cgroup_skb).
func PacketPrograms(root, dir string) ([]Program, error) { return programs(root, dir, packetHooks) }

func programs(root, dir string, hooks []ebpf.AttachType) (out []Program, err error) {
	for at := dir; at != root && strings.HasPrefix(at, root+"/"); {
		at = filepath.Dir(at)
		if out, err = appendPrograms(out, at, hooks); err != nil {
			return nil, err
		}
	}
	err = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() {
			out, err = appendPrograms(out, path, hooks)
		}
		if path != dir && (errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENODEV)) {
			return nil // the cgroup was removed meanwhile
		}
		return err
	})
	return out, err
}

// appendPrograms appends the programs on one cgroup.
func appendPrograms(out []Program, dir string, hooks []ebpf.AttachType) ([]Program, error) {
	found, err := attached.Programs(dir, hooks...)
	for _, p := range found {
		out = append(out, Program{Cgroup: dir, Hook: names[p.Hook], Name: p.Name, ID: uint32(p.ID)})
	}
	return out, err
}
