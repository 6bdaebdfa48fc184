// SPDX-License-Identifier: Apache-2.0

// Package outbound determines how the sockets of an upstream group leave this machine: their
// source address, their network device, and their firewall mark. All of it is set before a
// socket connects, so that no packet leaves another way. The package imports nothing of Sotto.
package outbound
