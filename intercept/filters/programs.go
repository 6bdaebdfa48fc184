// SPDX-License-Identifier: Apache-2.0

package filters

import (
	"encoding/binary"
	"fmt"

	"github.com/cilium/ebpf"

	"sotto/intercept/attached"
)

// Setting is a setting of a systemd unit that filters packets.
type Setting string

// The settings for which systemd attaches programs to the cgroup of a unit.
const (
	IPAddress     Setting = "IPAddressAllow" // or IPAddressDeny
	Interfaces    Setting = "RestrictNetworkInterfaces"
	UnknownFilter Setting = "" // a program of other software
)

// settings maps the names of systemd's programs to their settings; see
// src/core/bpf-firewall.c and src/core/bpf/restrict_ifaces/restrict-ifaces.bpf.c of systemd.
var settings = map[string]Setting{
	"sd_fw_egress": IPAddress, "sd_fw_ingress": IPAddress,
	"sd_restrictif_e": Interfaces, "sd_restrictif_i": Interfaces,
}

// Program is a program of other software that filters the packets of a cgroup.
type Program struct {
	Dir     string // of the cgroup that it is attached to
	Name    string
	Setting Setting
	Egress  bool // of sent packets, or else of received ones

	id ebpf.ProgramID
}

// Programs returns the programs of other software that are attached to the cgroup with the
// directory dir, without those of the cgroups above it. After an error it returns those that it
// found until then.
func Programs(dir string) ([]Program, error) {
	found, err := attached.Programs(dir, ebpf.AttachCGroupInetEgress, ebpf.AttachCGroupInetIngress)
	out := make([]Program, len(found))
	for i, p := range found {
		out[i] = Program{Dir: dir, Name: p.Name, Setting: settings[p.Name], Egress: p.Hook == ebpf.AttachCGroupInetEgress, id: p.ID}
	}
	return out, err
}

// offIfindex is the offset of ifindex in struct __sk_buff.
const offIfindex = 40

// Drops reports whether the program drops a packet that leaves or arrives by the interface
// with that index in the calling thread's network namespace. The packet starts with an Ethernet
// header; see [Datagram]. It runs the program with BPF_PROG_TEST_RUN: no packet is sent. That
// is only defined for systemd's programs, which have no side effects.
func (p Program) Drops(packet []byte, ifindex int) (bool, error) {
	prog, err := ebpf.NewProgramFromID(p.id)
	if err != nil {
		return false, err
	}
	defer prog.Close()
	context := make([]byte, offIfindex+4)
	binary.NativeEndian.PutUint32(context[offIfindex:], uint32(ifindex))
	verdict, err := prog.Run(&ebpf.RunOptions{Data: packet, Context: context})
	if err != nil {
		return false, fmt.Errorf("run the program %s: %w", p.Name, err)
	}
	return verdict&1 == 0, nil // bit 1 is for congestion
}
