// SPDX-License-Identifier: Apache-2.0

// Package attached lists the eBPF programs that other software has attached to a cgroup. It only
// reads. It needs CAP_NET_ADMIN and CAP_SYS_ADMIN.
package attached
