// SPDX-License-Identifier: Apache-2.0

// Package intercept catches the DNS of cgroups and leads it to a listener.
//
// It owns everything of Sotto that lives in the kernel: the programs on the
// cgroups, their maps and pins, the listener's network namespace with the routes
// to it, and the record of which instances run. It knows nothing of DNS but the
// port, and never imports the forwarder; the command joins them.
//
// An [Instance] goes through [Open] (everything but the hooks), the caller's
// listener (made with [Instance.Do]), [Instance.Attach] (the hooks go live),
// [Instance.Run] (keeps it in order) and [Instance.Close] (takes all of it away).
//
// It promises:
//   - What the hooks cannot seal is refused, not sent: a missing slot is ENOBUFS, a
//     missing listener ECONNREFUSED, a missing link EHOSTUNREACH.
//   - A crash changes nothing of that. Hooks, maps, namespace and routes outlive
//     the process; the next Open of the same name adopts them without a gap, and
//     [Down] takes them away.
//   - Several instances run side by side. The innermost seal wins.
//
// Everything here needs root, cgroup2 and Linux 5.10 or newer.
package intercept
