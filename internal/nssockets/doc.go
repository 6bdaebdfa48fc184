// SPDX-License-Identifier: Apache-2.0

// Package nssockets hides the sockets of local name services from one command. The C library
// asks nscd, and systemd's module nss-resolve asks systemd-resolved, over Unix sockets, which
// no hook for DNS sees. Without these sockets glibc uses DNS.
//
// [Start] starts the command in a mount namespace of its own, which is a copy of the
// caller's: mounts of others do not change. Its only caller is sotto/cmd/sotto.
package nssockets
