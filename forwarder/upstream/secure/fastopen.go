// SPDX-License-Identifier: Apache-2.0

package secure

import (
	"syscall"

	"golang.org/x/sys/unix"
)

// fastOpen enables TCP Fast Open (RFC 7413): the kernel sends the first TLS message with
// the SYN to a server from which it has a cookie, which saves a round trip when a
// connection is reopened. connect(2) then succeeds without sending a packet, and its
// errors are returned by the handshake, whose completion decides the race of addresses in
// any case.
//
// The kernel decides whether to use it (net.ipv4.tcp_fastopen has to allow clients, which
// is the default), requests the cookie with the first connection, and stops using it on
// paths that drop such SYNs (tcp_fastopen_blackhole_timeout_sec). Errors are ignored
// because the connection is then opened normally. A SYN may be duplicated, and the
// ClientHello with it: the server then answers both, and one of its answers is discarded.
// Queries are never sent that early.
func fastOpen(c syscall.RawConn) {
	_ = c.Control(func(fd uintptr) {
		_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_FASTOPEN_CONNECT, 1)
	})
}
