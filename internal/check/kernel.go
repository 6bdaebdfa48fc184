// SPDX-License-Identifier: Apache-2.0

package check

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"sotto/intercept/cgroup"
	"sotto/intercept/feature"
	"sotto/intercept/references"
)

// capability is one that `run` needs at its start. docs/SECURITY.md explains each; CAP_SYS_RESOURCE
// is needed only before Linux 5.11, and CAP_SYS_PTRACE only in a mount namespace.
type capability struct {
	name string
	bit  uint
}

var neededCapabilities = []capability{
	{"CAP_DAC_READ_SEARCH", unix.CAP_DAC_READ_SEARCH}, {"CAP_NET_ADMIN", unix.CAP_NET_ADMIN},
	{"CAP_NET_BIND_SERVICE", unix.CAP_NET_BIND_SERVICE}, {"CAP_SYS_ADMIN", unix.CAP_SYS_ADMIN},
}

func checkCapabilities(_ context.Context, m *machine) Result {
	const name = "capabilities"
	if !m.root {
		return needsRoot(name)
	}
	text, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return failed(name, "mount procfs: mount -t proc proc /proc", "%v", err)
	}
	lacking, err := lackingCapabilities(string(text))
	switch {
	case err != nil:
		return warning(name, "", "%v", err)
	case len(lacking) > 0:
		m.lackCaps = true
		list := strings.Join(lacking, " ")
		return failed(name, fmt.Sprintf("in a container: --cap-add for each, or --privileged; in a systemd unit: CapabilityBoundingSet=%s", list),
			"this process is root without %s", list)
	}
	return ok(name, "all that are needed")
}

// lackingCapabilities returns the needed capabilities that are not in effect, according to the
// text of /proc/PID/status.
func lackingCapabilities(text string) (out []string, err error) {
	_, rest, found := strings.Cut(text, "\nCapEff:")
	fields := strings.Fields(rest)
	if !found || len(fields) == 0 {
		return nil, errors.New("/proc/self/status has no line CapEff")
	}
	bits, err := strconv.ParseUint(fields[0], 16, 64)
	if err != nil {
		return nil, fmt.Errorf("read CapEff in /proc/self/status: %w", err)
	}
	for _, c := range neededCapabilities {
		if bits&(1<<c.bit) == 0 {
			out = append(out, c.name)
		}
	}
	return out, nil
}

func checkKernel(_ context.Context, m *machine) Result {
	const name = "kernel"
	release := feature.Release()
	switch {
	case !m.root:
		return Result{Name: name, State: Skipped, Detail: release + ": finding its features needs root", Fix: "sudo sotto check"}
	case m.lackCaps:
		return needsCapabilities(name)
	}
	if err := feature.Missing(); err != nil {
		return failed(name, "install a newer kernel", "%v", err)
	}
	if _, err := os.Stat("/sys/kernel/btf/vmlinux"); err != nil {
		return warning(name, "use a kernel with CONFIG_DEBUG_INFO_BTF, if programs need MPTCP connections to nameservers",
			"%s has all needed features, but no BTF: MPTCP connections to nameservers are refused", release)
	}
	if references.Crashes(release) {
		return ok(name, "%s, all needed features; MPTCP connections to nameservers are refused", release)
	}
	return ok(name, "%s, all features", release)
}

func checkCgroup2(_ context.Context, m *machine) Result {
	const name = "cgroup2"
	root, err := cgroup.Root()
	var missing *cgroup.NotFoundError
	switch {
	case errors.As(err, &missing):
		m.noCgroup2, m.noSeal = true, "needs cgroup2"
		return failed(name, strings.TrimPrefix(missing.Fix, "try: "), "%s", missing.Reason)
	case err != nil:
		return failed(name, "", "%v", err)
	}
	readOnly, err := isReadOnly(root)
	switch {
	case err != nil:
		return failed(name, "", "%v", err)
	case readOnly:
		m.noSeal = "needs a writable cgroup2"
		return warning(name, "mount -o remount,rw "+root+" (in a container: -v /sys/fs/cgroup:/sys/fs/cgroup:rw)",
			"%s is mounted read-only: 'sotto exec' cannot create a cgroup, 'sotto run' works", root)
	}
	escapes, unknown := leavable(m)
	switch {
	case len(escapes) > 0:
		return warning(name, "name cgroups whose parents belong to root", "a user other than root can move processes out of the seal: %s", strings.Join(escapes, "; "))
	case unknown != nil:
		return warning(name, "", "cannot check who may move processes out of the seal: %v", unknown)
	}
	return ok(name, "%s", root)
}

// leavable returns why users other than root can leave the seal.
func leavable(m *machine) (escapes []string, unknown error) {
	for _, dirs := range [][]string{m.seal.Cgroups, m.seal.Exclude} {
		for _, dir := range dirs {
			why, err := cgroup.Leavable(dir)
			if err != nil {
				unknown = err
			} else if why != "" {
				escapes = append(escapes, why)
			}
		}
	}
	return escapes, unknown
}

func isReadOnly(dir string) (bool, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return false, fmt.Errorf("stat %s: %w", dir, err)
	}
	return st.Flags&unix.ST_RDONLY != 0, nil
}

// bpffs is where Sotto pins programs and maps.
const bpffs = "/sys/fs/bpf"

func checkBPFFS(_ context.Context, m *machine) Result {
	const name = "bpffs"
	const mount = "mount -t bpf bpf " + bpffs
	var st unix.Statfs_t
	err := unix.Statfs(bpffs, &st)
	if err != nil || st.Type != unix.BPF_FS_MAGIC || st.Flags&unix.ST_RDONLY != 0 {
		m.noSeal = "needs bpffs"
	}
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return failed(name, "mount -t sysfs sysfs /sys, and "+mount, "%s does not exist", bpffs)
	case err != nil:
		return failed(name, mount, "%v", err)
	case st.Type != unix.BPF_FS_MAGIC:
		return warning(name, mount+" (in a container: -v "+bpffs+":"+bpffs+")", "not mounted on %s: Sotto tries to mount it when it starts", bpffs)
	case st.Flags&unix.ST_RDONLY != 0:
		return failed(name, "mount -o remount,rw "+bpffs, "%s is mounted read-only: the seal could not be pinned", bpffs)
	}
	return ok(name, "%s", bpffs)
}
