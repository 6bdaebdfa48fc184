#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# Runs `vagrant up` with the Vagrantfile of this tree, without KVM and without internet access for the guest: builds the
# package and a Debian box, and runs libvirt, the bridge and an emulated guest in isolated namespaces. The guest installs the
# package, seals itself, and resolves names with dig, resolvectl, getent and a container before and after. After `halt` and
# `up` it was sealed from the first query. Then systemd-guest.sh tests the units there. Fifteen minutes, and five more without a
# cached box; not part of scripts/test.sh.
#
#   sudo ./scripts/vagrant-test.sh
#
#   SOTTO_CACHE=DIR        where the box is kept between runs (default /var/cache/sotto-test); delete it to build it again
#   SOTTO_STEPS=WORDS      steps of systemd-guest.sh (default: all)
#
# Removes everything afterwards except the installed packages and the cache.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/lib.sh
. scripts/lib-guest-root.sh

packages=(
	"vagrant vagrant"
	"/usr/share/doc/vagrant-libvirt vagrant-libvirt"
	"libvirtd libvirt-daemon-system"
	"dnsmasq dnsmasq-base"
	"qemu-img qemu-utils"
	"qemu-system-x86_64 qemu-system-x86"
	"mmdebstrap mmdebstrap"
	"extlinux extlinux"
	"/usr/lib/EXTLINUX/mbr.bin syslinux-common"
	"mke2fs e2fsprogs"
	"ip iproute2"
	"rsync rsync"
	"ssh openssh-client"
)

# Packages in the box: a bootable Debian, and the clients, which the guest cannot download.
readonly box_packages="linux-image-cloud-amd64 initramfs-tools zstd systemd-sysv dbus udev openssh-server sudo rsync iproute2 kmod \
procps bind9-dnsutils tcpdump systemd-resolved podman netavark aardvark-dns crun iptables busybox-static"

# make_root DIR: creates the guest's file system: Debian, with the settings that virtio, ssh and vagrant need.
make_root() {
	local root=$1 key
	# shellcheck disable=SC2016 # mmdebstrap passes its root to the hook as $1
	cached_root bookworm "$box_packages" \
		--customize-hook='printf "virtio_pci\nvirtio_blk\next4\ncrc32c_generic\n" >>"$1/etc/initramfs-tools/modules"' \
		--customize-hook='echo MODULES=list >"$1/etc/initramfs-tools/conf.d/modules"' \
		--customize-hook='chroot "$1" update-initramfs -u' \
		--customize-hook='chroot "$1" useradd -m -s /bin/bash vagrant'
	mkdir "$root"
	tar -C "$root" --numeric-owner -xf "$root_tar"
	echo 'vagrant ALL=(ALL) NOPASSWD: ALL' >"$root/etc/sudoers.d/vagrant"
	# Vagrant's well-known key; the guest is reachable only from the namespace of this run.
	key=$(dpkg -L vagrant | grep '/keys/vagrant.pub$')
	install -d -m 700 "$root/home/vagrant/.ssh"
	install -m 600 "$key" "$root/home/vagrant/.ssh/authorized_keys"
	chroot "$root" chown -R vagrant: /home/vagrant/.ssh
	# The host's DHCP server has no nameserver that answers; all clients use the one of the LAN in the guest.
	printf '[Match]\nName=eth* en*\n[Network]\nDHCP=yes\n[DHCPv4]\nUseDNS=no\n' >"$root/etc/systemd/network/80-dhcp.network"
	mkdir -p "$root/etc/systemd/resolved.conf.d"
	printf '[Resolve]\nDNS=192.0.2.53\nDomains=~.\n' >"$root/etc/systemd/resolved.conf.d/lan.conf"
	chroot "$root" systemctl --quiet enable systemd-networkd systemd-resolved
	echo '/dev/vda / ext4 defaults 0 1' >"$root/etc/fstab"
	rm -f "$root/etc/resolv.conf"
	printf 'nameserver 192.0.2.53\n' >"$root/etc/resolv.conf"
}

# cached_box: sets box to the box. Makes the box, unless the cache has it.
cached_box() {
	local key
	key=$( (declare -f make_root make_disk make_box && echo "$box_packages") | sha256sum | cut -c1-12)
	box=$CACHE/vagrant-$key.box
	if [[ -s $box ]]; then
		note "vagrant box: $box"
		return
	fi
	make_root "$work/root"
	make_disk "$work/root" "$work/disk.img"
	make_box "$work/disk.img" "$work/debian.box"
	mv "$work/debian.box" "$box"
	rm -rf --one-file-system "$work/root" "$work/disk.img" "$work/debian.box.d"
}

# make_disk ROOT IMAGE: creates a disk without partitions, with ext4 features that extlinux supports (no 64bit, no
# metadata_csum).
make_disk() {
	local root=$1 image=$2 mnt=$2.mnt
	say "bootable disk"
	cat >"$root/boot/extlinux.conf" <<-'END'
		DEFAULT linux
		LABEL linux
		LINUX /vmlinuz
		INITRD /initrd.img
		APPEND root=/dev/vda rw net.ifnames=0 console=ttyS0,115200 mitigations=off
	END
	truncate -s 4G "$image"
	mke2fs -q -t ext4 -O ^64bit,^metadata_csum -d "$root" "$image"
	mkdir "$mnt"
	mount -o loop "$image" "$mnt"
	extlinux --install "$mnt/boot" >/dev/null
	umount "$mnt"
}

# make_box IMAGE BOX: creates a box. Its own Vagrantfile has the settings for emulation, which the project's does not need.
make_box() {
	local image=$1 box=$2 dir=$2.d
	say "vagrant box"
	mkdir "$dir"
	qemu-img convert -q -O qcow2 -c "$image" "$dir/box.img"
	echo '{"provider":"libvirt","format":"qcow2","virtual_size":4}' >"$dir/metadata.json"
	cat >"$dir/Vagrantfile" <<-'END'
		Vagrant.configure("2") do |config|
		  config.vm.guest = :debian
		  config.ssh.insert_key = false
		  config.vm.provider "libvirt" do |v|
		    v.driver = "qemu"
		    v.cpu_mode = "maximum"
		    v.graphics_type = "none"
		    v.video_type = "none"
		    v.management_network_mode = "none"
		  end
		end
	END
	tar -C "$dir" -cf "$box" metadata.json Vagrantfile box.img
	note "$(du -h "$box" | cut -f1)"
}

# inside DIR: runs in the sandbox, with a separate libvirt state that is removed with it.
inside() {
	local dir=$1
	mkdir -p "$dir/libvirt" "$dir/cache" "$dir/log"
	mount --bind "$dir/libvirt" /var/lib/libvirt
	mount --bind "$dir/cache" /var/cache/libvirt
	mount --bind "$dir/log" /var/log/libvirt
	mkdir -p /var/lib/libvirt/images
	# Definitions of domains, networks and pools are files in /etc/libvirt.
	cp -a /etc/libvirt "$dir/etc"
	mount --bind "$dir/etc" /etc/libvirt
	# As root: otherwise libvirt repeatedly probes QEMU for KVM if /dev/kvm exists but does not work.
	cat >/etc/libvirt/qemu.conf <<-'END'
		user = "root"
		group = "root"
		security_driver = "none"
		cgroup_controllers = []
	END
	virtlogd --daemon
	libvirtd --daemon
	wait_for 30 "libvirtd" virsh -c qemu:///system version

	export VAGRANT_HOME=$dir/vagrant VAGRANT_DOTFILE_PATH=$dir/dotfile VAGRANT_CHECKPOINT_DISABLE=1
	export VAGRANT_DEFAULT_PROVIDER=libvirt SOTTO_OFFLINE=1 HOME=$dir
	vagrant box add --no-tty --name debian/bookworm64 "$box" | sed 's/^/   /'
	timed vagrant up --no-tty
	timed vagrant halt --no-tty
	timed vagrant up --no-tty
	say "sealed from the first query after the boot"
	guest /vagrant/scripts/vagrant-provision.sh booted
	say "units"
	guest env "SOTTO_STEPS=${SOTTO_STEPS:-}" /vagrant/scripts/systemd-guest.sh "/vagrant/dist/packages/$(basename "$deb")" /vagrant/dist/load.test
	timed vagrant destroy --no-tty -f
}

# guest COMMAND…: runs a command as root in the guest.
guest() { vagrant ssh --no-tty -c "sudo $(printf '%q ' "$@")" 2>/dev/null; }

# timed COMMAND…: runs a command and prints how long it took.
timed() {
	local started=$SECONDS
	say "$*"
	"$@"
	say "$1 $2 took $((SECONDS - started)) s"
}

if [[ ${1:-} == inside ]]; then
	box=$3 deb=$4
	inside "$2"
	exit
fi
need_root
install_missing "${packages[@]}"
ensure_go
say "package and client"
rm -rf dist/packages
deb=$(./scripts/package.sh | tail -n1)
defer rm -f dist/load.test
CGO_ENABLED=0 go test -c -o dist/load.test ./internal/e2e/takeover
chown -R --reference=go.mod dist
work=$(mktemp -d /var/tmp/sotto-vagrant.XXXXXX)
defer rm -rf --one-file-system "$work"
cached_box
sandbox_pid bash "$0" inside "$work" "$box" "$deb"
say "vagrant-test: passed in $SECONDS s"
