// SPDX-License-Identifier: Apache-2.0

// Package groups tests settings of upstream groups on networks with several ways out: the
// nameserver that the client asked as the upstream, and connections through a VPN.
package groups
