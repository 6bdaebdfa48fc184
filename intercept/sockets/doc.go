// SPDX-License-Identifier: Apache-2.0

// Package sockets lists and destroys sockets of other processes, in all network namespaces.
//
// It uses the kernel's inet_diag (sock_diag(7)) for TCP, UDP and UDP-Lite. Destroying a
// socket (SOCK_DESTROY, Linux with CONFIG_INET_DIAG_DESTROY) makes the next call of its
// owner fail with ECONNABORTED. It needs CAP_NET_ADMIN in each namespace.
package sockets
