# SPDX-License-Identifier: Apache-2.0
#
# clone_into.py CGROUP: starts a process directly in that cgroup (clone3 with
# CLONE_INTO_CGROUP). The process prints its cgroup. On failure it prints the error.
import ctypes
import errno
import os
import signal
import sys

SYS_CLONE3, CLONE_INTO_CGROUP = 435, 0x200000000

directory = os.open(sys.argv[1], os.O_RDONLY | os.O_DIRECTORY)
# struct clone_args: flags, pidfd, child_tid, parent_tid, exit_signal, stack,
# stack_size, tls, set_tid, set_tid_size, cgroup
args = (ctypes.c_uint64 * 11)(CLONE_INTO_CGROUP, 0, 0, 0, signal.SIGCHLD, 0, 0, 0, 0, 0, directory)
pid = ctypes.CDLL(None, use_errno=True).syscall(SYS_CLONE3, args, ctypes.sizeof(args))
if pid < 0:
    print("clone refused:", errno.errorcode[ctypes.get_errno()])
elif pid == 0:
    text = os.read(os.open("/proc/self/cgroup", os.O_RDONLY), 4096)
    os.write(1, b"cloned into " + [l for l in text.splitlines() if l.startswith(b"0::")][0] + b"\n")
    os._exit(0)
else:
    os.waitpid(pid, 0)
