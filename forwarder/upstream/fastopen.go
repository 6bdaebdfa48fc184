// SPDX-License-Identifier: Apache-2.0

package upstream

import (
	"syscall"

	"golang.org/x/sys/unix"
)

// fastOpen has the kernel open the connection with TCP Fast Open (RFC 7413): it
// sends the first TLS message with the SYN to a server that gave it a cookie before,
// which saves the reopening of a connection a round trip. connect then succeeds
// without a packet, and what it would have failed with comes with the handshake, up
// to whose end addresses are raced anyway.
//
// The kernel decides (net.ipv4.tcp_fastopen has to allow clients, as it does by
// default), asks for the cookie with the first connection, and leaves it when a path
// swallows such SYNs (tcp_fastopen_blackhole_timeout_sec). An error says that it
// cannot; the connection is then opened as ever. A SYN may be delivered twice, and
// so may a ClientHello: a server answers it twice, and one of the two is nobody's.
// No query is ever sent that early.
func fastOpen(c syscall.RawConn) {
	_ = c.Control(func(fd uintptr) {
		_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_FASTOPEN_CONNECT, 1)
	})
}
