// SPDX-License-Identifier: Apache-2.0

package others

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

// ownPrefix starts the names of Sotto's programs.
const ownPrefix = "sotto_"

// Program is a program of other software on a cgroup.
type Program struct {
	Cgroup string // directory
	Hook   string // as bpftool(8) shows it
	Name   string
	ID     uint32
}

// hook is a place on cgroups to which programs can be attached.
type hook struct {
	name string
	at   ebpf.AttachType
}

// addressHooks are those that change or refuse the address of a socket's peer.
var addressHooks = []hook{
	{"connect4", ebpf.AttachCGroupInet4Connect}, {"connect6", ebpf.AttachCGroupInet6Connect},
	{"sendmsg4", ebpf.AttachCGroupUDP4Sendmsg}, {"sendmsg6", ebpf.AttachCGroupUDP6Sendmsg},
	{"recvmsg4", ebpf.AttachCGroupUDP4Recvmsg}, {"recvmsg6", ebpf.AttachCGroupUDP6Recvmsg},
	{"getpeername4", ebpf.AttachCgroupInet4GetPeername}, {"getpeername6", ebpf.AttachCgroupInet6GetPeername},
}

// packetHooks are those that drop packets.
var packetHooks = []hook{{"egress", ebpf.AttachCGroupInetEgress}, {"ingress", ebpf.AttachCGroupInetIngress}}

// AddressPrograms returns the programs that change or refuse addresses of sockets (the type
// sock_addr) in the cgroup dir: those on it, on the cgroups above it up to root, and on those
// below it. It needs CAP_NET_ADMIN and CAP_SYS_ADMIN.
func AddressPrograms(root, dir string) ([]Program, error) { return programs(root, dir, addressHooks) }

// PacketPrograms is [AddressPrograms] for the programs that drop packets (the type cgroup_skb).
func PacketPrograms(root, dir string) ([]Program, error) { return programs(root, dir, packetHooks) }

func programs(root, dir string, hooks []hook) (out []Program, err error) {
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
func appendPrograms(out []Program, dir string, hooks []hook) ([]Program, error) {
	f, err := os.Open(dir)
	if err != nil {
		return out, err
	}
	defer f.Close()
	for _, h := range hooks {
		found, err := link.QueryPrograms(link.QueryOptions{Target: int(f.Fd()), Attach: h.at})
		if err != nil {
			return out, fmt.Errorf("list the programs on cgroup %s: %w", dir, err)
		}
		for _, p := range found.Programs {
			name, err := nameOf(p.ID)
			if errors.Is(err, fs.ErrNotExist) || strings.HasPrefix(name, ownPrefix) {
				continue // it was detached meanwhile, or it is Sotto's
			}
			if err != nil {
				return out, fmt.Errorf("examine program %d on cgroup %s: %w", p.ID, dir, err)
			}
			out = append(out, Program{Cgroup: dir, Hook: h.name, Name: name, ID: uint32(p.ID)})
		}
	}
	return out, nil
}

func nameOf(id ebpf.ProgramID) (string, error) {
	p, err := ebpf.NewProgramFromID(id)
	if err != nil {
		return "", err
	}
	defer p.Close()
	info, err := p.Info()
	if err != nil {
		return "", err
	}
	return info.Name, nil
}
