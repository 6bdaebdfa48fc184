// SPDX-License-Identifier: Apache-2.0

// Package cgroup works on the cgroup2 file system: it finds cgroups, creates and removes
// those of sealed commands, checks who may manage a cgroup, and maps cgroup IDs to paths.
//
// A cgroup has a directory and an ID. The ID is the inode number of the directory, which
// bpf_get_current_cgroup_id returns inside the cgroup; the kernel never reuses one while
// it runs. A workload is what runs in one cgroup.
//
// Finding cgroups needs the whole hierarchy: the cgroup namespace of the host. The package
// uses no eBPF and no network, and may be used by any package of Sotto.
package cgroup
