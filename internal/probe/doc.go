// SPDX-License-Identifier: Apache-2.0

// Package probe answers whether one process is ready, on a socket of its own.
//
// The control socket belongs to the process that has the seal: during a takeover its path
// moves from one process to another. A supervisor that runs both, such as kubelet, asks each
// about itself, from the start of the process until its exit. [Server] therefore outlives the
// seal. Its socket has the same form as the control socket (package control) and answers
// nothing but GET /v1/ready.
package probe
