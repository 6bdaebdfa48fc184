// SPDX-License-Identifier: Apache-2.0

// Package bpf holds the kernel half of Sotto: the C sources, and the objects and
// bindings made from them. They are committed, so that go build needs no clang.
//
// The programs lead DNS of the cgroups that they are attached to, to virtual
// addresses (slots), and put the nameservers' own addresses into replies. What
// they promise is told in the sources, one idea a header: settings.h, counters.h,
// slots.h, classify.h, packet.h, lead.h, guard.h, and the hooks in sotto.c.
//
// One object serves every little-endian machine: it touches no registers or
// kernel structures, whose layout would differ. There is none for big-endian ones,
// which nobody here can try.
//
// Only package intercept uses this package.
package bpf

// The clang is pinned because another one makes other bytes; both include paths
// are named because the headers' place is the only thing that the machine decides.
//go:generate go tool bpf2go -cc clang-14 -strip llvm-strip-14 -target bpfel -go-package bpf -type counter -type key -type slot -type origin -type instance -type guard -type share -cflags "-O2 -mcpu=v2 -Wall -Wextra -Werror -Wno-unused-parameter -idirafter /usr/include/x86_64-linux-gnu -idirafter /usr/include/aarch64-linux-gnu" Sotto sotto.c
//go:generate go tool bpf2go -cc clang-14 -strip llvm-strip-14 -target bpfel -go-package bpf -cflags "-O2 -mcpu=v2 -Wall -Wextra -Werror -Wno-unused-parameter -idirafter /usr/include/x86_64-linux-gnu -idirafter /usr/include/aarch64-linux-gnu" References references.c
