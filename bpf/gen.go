// SPDX-License-Identifier: Apache-2.0

// Package bpf is the kernel half of Sotto: the C sources, and the objects and bindings
// that are generated from them. These are committed, so that go build needs no clang.
//
// The programs redirect DNS of the cgroups that they are attached to, to virtual
// addresses (slots), and restore the nameservers' addresses in replies. Every constant,
// map and program is defined in sotto.c; the headers contain one subject each:
//
//   - settings.h: constants and maps that user space sets
//   - counters.h: the reasons of verdicts
//   - address.h, classify.h: kinds of addresses, ports, sockets and cgroups
//   - shares.h, slots.h, holds.h: slots, their limits, and the sockets that hold them
//   - hooks.h: the hooks on sockets
//   - packet.h, guard.h, redirect.h: packets that bypass these hooks
//   - collect.h, references.c: collection of idle slots and count of references
//
// One object serves every little-endian machine: it accesses no registers or kernel
// structures, whose layout would differ. Big-endian machines are not supported because
// they are not tested.
//
// Only package intercept uses this package.
package bpf

// The version of clang is fixed because another generates other bytes. Both include
// paths are given because the headers are in another directory on each architecture.
//go:generate go tool bpf2go -cc clang-14 -strip llvm-strip-14 -target bpfel -go-package bpf -type counter -type key -type slot -type origin -type instance -type guard -type share -cflags "-O2 -mcpu=v2 -Wall -Wextra -Werror -Wno-unused-parameter -idirafter /usr/include/x86_64-linux-gnu -idirafter /usr/include/aarch64-linux-gnu" Sotto sotto.c
//go:generate go tool bpf2go -cc clang-14 -strip llvm-strip-14 -target bpfel -go-package bpf -cflags "-O2 -mcpu=v2 -Wall -Wextra -Werror -Wno-unused-parameter -idirafter /usr/include/x86_64-linux-gnu -idirafter /usr/include/aarch64-linux-gnu" References references.c
