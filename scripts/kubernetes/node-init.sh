#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# PID 1 of a node: prepares the mounts of a node in new mount, PID, UTS, IPC and network namespaces, and then reaps
# processes until it is stopped.
#
#   node-init.sh NAME ADDRESS STATE CGROUP     STATE: the node's directory; CGROUP: below the root of the hierarchy
set -euo pipefail
name=$1 address=$2 state=$3 cgroup=$4

mount --make-rshared /
hostname "$name"
umount -R /sys
mount -t sysfs sysfs /sys
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mount -t bpf bpf /sys/fs/bpf
mount -t tmpfs -o mode=755 tmpfs /run
mkdir -p /run/netns /run/lock /run/sotto

# Nothing of the node's is on the machine's file system: /etc, /var/lib and /var/log are overlays.
for dir in etc var/lib var/log; do
	mkdir -p "$state/upper/$dir" "$state/work/$dir"
	mount -t overlay -o "lowerdir=/$dir,upperdir=$state/upper/$dir,workdir=$state/work/$dir" overlay "/$dir"
done
# containerd cannot put an overlay on an overlay, and kubelet needs shared mounts.
for dir in containerd kubelet; do
	mkdir -p "$state/$dir" "/var/lib/$dir"
	mount --bind "$state/$dir" "/var/lib/$dir"
done
mount --make-rshared /var/lib/kubelet
mkdir -p /var/log/pods /var/log/containers /etc/kubernetes /etc/cni/net.d
echo 'nameserver 8.8.8.8' >"$state/resolv.conf"
mount --bind "$state/resolv.conf" "$(readlink -f /etc/resolv.conf)"
# The API server reaches kubelet by the node's name.
printf '127.0.0.1 localhost\n%s\n%s %s\n' "$(cat "$state/../hosts")" "$address" "$name" >/etc/hosts

# kubelet sets sysctls of the whole machine: it sees the values that it wants here, and sets nothing.
for setting in vm/overcommit_memory=1 vm/panic_on_oom=0 kernel/panic=10 kernel/panic_on_oops=1 \
	kernel/keys/root_maxkeys=1000000 kernel/keys/root_maxbytes=25000000; do
	file=$state/sysctl-$(basename "${setting%=*}")
	echo "${setting#*=}" >"$file"
	mount --bind "$file" "/proc/sys/${setting%=*}"
done
sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1
ip link set lo up

mkdir -p "/sys/fs/cgroup/$cgroup"/{system,runtime,kubepods}
echo $$ >"/sys/fs/cgroup/$cgroup/system/cgroup.procs"
: >"$state/ready"
trap 'exit 0' TERM
while :; do
	sleep 1000 &
	wait $! || true
done
