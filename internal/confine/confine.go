// SPDX-License-Identifier: Apache-2.0

// Package confine takes from a process what it does not need any more: capabilities,
// the right to gain others, and system calls that no DNS daemon has a use for. It holds
// for all threads, and there is no way back.
package confine

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/elastic/go-seccomp-bpf"
	"github.com/elastic/go-seccomp-bpf/arch"
	"golang.org/x/sys/unix"
	"kernel.org/pub/linux/libs/security/libcap/cap"
)

// denied are system calls that answer EPERM from then on. A list of what is allowed
// would be the Go runtime's and every library's, and break with their next version; this
// one takes what turns a foothold in the process into more: other programs, other
// processes, the kernel's own code, the machine's state.
var denied = []string{
	"execve", "execveat", // it starts no program
	"ptrace", "process_vm_readv", "process_vm_writev", "process_madvise", "kcmp", "pidfd_getfd",
	"init_module", "finit_module", "delete_module", "kexec_load", "kexec_file_load",
	"reboot", "swapon", "swapoff", "acct", "quotactl", "quotactl_fd",
	"pivot_root", "chroot", "sethostname", "setdomainname",
	"settimeofday", "clock_settime", "clock_adjtime", "adjtimex", "stime",
	"add_key", "request_key", "keyctl",
	"perf_event_open", "userfaultfd", "lookup_dcookie", "vhangup", "syslog",
	"io_uring_setup", "io_uring_enter", "io_uring_register",
	"ioperm", "iopl", "modify_ldt", "vm86", "vm86old", "uselib", "nfsservctl", "personality",
	"mknod", "mknodat", "move_pages", "migrate_pages", "mbind", "set_mempolicy",
	"fanotify_init", "name_to_handle_at",
	"setuid", "setgid", "setreuid", "setregid", "setresuid", "setresgid", "setgroups", "setfsuid", "setfsgid",
}

// Apply leaves the process with the capabilities named, as far as it has them (as in
// "CAP_NET_ADMIN"), on all threads, with no_new_privs and the list of system calls
// above and those given denied. What it holds is said in the process's status
// (/proc/PID/status).
func Apply(keep []string, deny ...string) error {
	// The filter first: to install it asks for no_new_privs, and for all threads at once
	// the kernel's own way (SECCOMP_FILTER_FLAG_TSYNC).
	if err := filter(append(slices.Clone(denied), deny...)); err != nil {
		return fmt.Errorf("confine: deny system calls: %w", err)
	}
	if err := drop(keep); err != nil {
		return fmt.Errorf("confine: drop capabilities: %w", err)
	}
	return nil
}

func filter(names []string) error {
	if !seccomp.Supported() {
		return nil // CONFIG_SECCOMP_FILTER=n
	}
	info, err := arch.GetInfo("")
	if err != nil {
		return err
	}
	// Not every machine has every call.
	names = slices.DeleteFunc(names, func(name string) bool { _, ok := info.SyscallNames[name]; return !ok })
	return seccomp.LoadFilter(seccomp.Filter{
		NoNewPrivs: true,
		Flag:       seccomp.FilterFlagTSync,
		Policy: seccomp.Policy{
			DefaultAction: seccomp.ActionAllow,
			Syscalls:      []seccomp.SyscallGroup{{Action: seccomp.ActionErrno | seccomp.Action(unix.EPERM), Names: names}},
		},
	})
}

// drop leaves at most the capabilities named.
func drop(keep []string) error {
	var kept []cap.Value
	for _, name := range keep {
		v, err := cap.FromName(strings.ToLower(name))
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		kept = append(kept, v)
	}
	have := cap.GetProc()
	mayBound, err := have.GetFlag(cap.Effective, cap.SETPCAP)
	if err != nil {
		return err
	}
	// Without that capability the bounding set stays: it is about programs that the
	// process would start, and there it gains nothing (no_new_privs).
	if mayBound {
		var errs []error
		for v := range cap.MaxBits() {
			if !slices.Contains(kept, v) {
				errs = append(errs, cap.DropBound(v))
			}
		}
		if err := errors.Join(errs...); err != nil {
			return err
		}
	}
	if err := cap.ResetAmbient(); err != nil && !errors.Is(err, unix.EINVAL) {
		return err
	}
	set := cap.NewSet()
	for _, v := range kept {
		has, err := have.GetFlag(cap.Permitted, v)
		if err != nil {
			return err
		}
		if has {
			if err := errors.Join(set.SetFlag(cap.Permitted, true, v), set.SetFlag(cap.Effective, true, v)); err != nil {
				return err
			}
		}
	}
	return set.SetProc()
}

// Held are the capabilities that the process has, for a log.
func Held() string { return cap.GetProc().String() }
