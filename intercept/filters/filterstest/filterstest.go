// SPDX-License-Identifier: Apache-2.0

// Package filterstest attaches programs to cgroups that filter packets as those of systemd do.
// They have systemd's names, and are simpler: what they allow is constant. Only tests may
// import it.
package filterstest

import (
	"encoding/binary"
	"errors"
	"net/netip"
	"os"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"github.com/cilium/ebpf/rlimit"
	"golang.org/x/sys/unix"
)

// Offsets in struct __sk_buff and in the headers of IP.
const (
	offLen, offProtocol, offIfindex = 0, 16, 40
	offSrc4, offDst4                = 12, 16
	offSrc6, offDst6                = 8, 24
)

// Filter is a pair of programs, for sent and received packets.
type Filter struct{ links []link.Link }

// Close detaches the programs.
func (f *Filter) Close() error {
	var errs []error
	for _, l := range f.links {
		errs = append(errs, l.Close())
	}
	return errors.Join(errs...)
}

// AllowAddresses drops the packets of the cgroup dir and those below it to and from addresses
// outside the prefixes, like IPAddressDeny=any with IPAddressAllow=.
func AllowAddresses(dir string, prefixes ...netip.Prefix) (*Filter, error) {
	return attach(dir,
		program{"sd_fw_egress", addresses(offDst4, offDst6, prefixes)},
		program{"sd_fw_ingress", addresses(offSrc4, offSrc6, prefixes)})
}

// AllowInterfaces drops the packets of the cgroup dir and those below it on other interfaces
// than those with the indexes, like RestrictNetworkInterfaces=.
func AllowInterfaces(dir string, indexes ...int) (*Filter, error) {
	code := asm.Instructions{asm.LoadMem(asm.R2, asm.R1, offIfindex, asm.Word)}
	for _, i := range indexes {
		code = append(code, asm.JEq.Imm(asm.R2, int32(i), "pass"))
	}
	return attach(dir, program{"sd_restrictif_e", code}, program{"sd_restrictif_i", code})
}

// addresses jumps to "pass" if the address at off4 or off6 is in one of the prefixes.
func addresses(off4, off6 int32, prefixes []netip.Prefix) asm.Instructions {
	code := asm.Instructions{
		asm.Mov.Reg(asm.R6, asm.R1),
		asm.LoadMem(asm.R7, asm.R1, offProtocol, asm.Word),
	}
	code = append(code, family(unix.ETH_P_IP, "v6", off4, prefixes)...)
	v6 := family(unix.ETH_P_IPV6, "drop", off6, prefixes)
	v6[0] = v6[0].WithSymbol("v6")
	return append(code, v6...)
}

// family is addresses for packets of one EtherType; others jump to other.
func family(etherType uint16, other string, off int32, prefixes []netip.Prefix) asm.Instructions {
	size := int16(4)
	if etherType == unix.ETH_P_IPV6 {
		size = 16
	}
	code := asm.Instructions{
		asm.JNE.Imm(asm.R7, int32(binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, etherType))), other),
		asm.Mov.Reg(asm.R1, asm.R6),
		asm.Mov.Imm(asm.R2, off),
		asm.Mov.Reg(asm.R3, asm.RFP),
		asm.Add.Imm(asm.R3, -16),
		asm.Mov.Imm(asm.R4, int32(size)),
		asm.FnSkbLoadBytes.Call(),
		asm.JNE.Imm(asm.R0, 0, "drop"),
	}
	for n, p := range prefixes {
		if p.Addr().Is4() == (size == 4) {
			code = append(code, contains(p, size, n)...)
		}
	}
	return append(code, asm.Ja.Label("drop"))
}

// contains jumps to "pass" if the address on the stack is in p. Prefixes are compared by bytes.
func contains(p netip.Prefix, size int16, n int) asm.Instructions {
	next := asm.Mov.Imm(asm.R0, 0).WithSymbol(string(rune('a'+n)) + string(rune('0'+size/4)))
	var code asm.Instructions
	for i, want := range p.Addr().AsSlice()[:p.Bits()/8] {
		code = append(code,
			asm.LoadMem(asm.R2, asm.RFP, int16(i)-16, asm.Byte),
			asm.JNE.Imm(asm.R2, int32(want), next.Symbol()))
	}
	return append(code, asm.Ja.Label("pass"), next)
}

type program struct {
	name string
	code asm.Instructions // jumps to "pass"; it drops at its end
}

func attach(dir string, programs ...program) (_ *Filter, err error) {
	f := &Filter{}
	defer func() {
		if err != nil {
			err = errors.Join(err, f.Close())
		}
	}()
	if err := rlimit.RemoveMemlock(); err != nil { // before Linux 5.11 programs count against it
		return nil, err
	}
	for n, p := range programs {
		code := asm.Instructions{
			asm.LoadMem(asm.R2, asm.R1, offLen, asm.Word),
			asm.JEq.Imm(asm.R2, 0, "pass"), // never, but the verifier refuses unreachable code
		}
		code = append(append(code, p.code...),
			asm.Mov.Imm(asm.R0, 0).WithSymbol("drop"), asm.Return(),
			asm.Mov.Imm(asm.R0, 1).WithSymbol("pass"), asm.Return())
		prog, err := ebpf.NewProgram(&ebpf.ProgramSpec{Name: p.name, Type: ebpf.CGroupSKB, Instructions: code, License: "GPL"})
		if err != nil {
			return nil, err
		}
		at := ebpf.AttachCGroupInetEgress
		if n == 1 {
			at = ebpf.AttachCGroupInetIngress
		}
		l, err := attachTo(dir, prog, at)
		if err := errors.Join(err, prog.Close()); err != nil {
			return nil, err
		}
		f.links = append(f.links, l)
	}
	return f, nil
}

func attachTo(dir string, prog *ebpf.Program, at ebpf.AttachType) (link.Link, error) {
	d, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	defer d.Close()
	return link.AttachRawLink(link.RawLinkOptions{Target: int(d.Fd()), Program: prog, Attach: at})
}
