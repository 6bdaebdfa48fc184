// SPDX-License-Identifier: Apache-2.0

// Package resolved reads over D-Bus which domains systemd-resolved resolves by itself or by
// the nameservers of one link: its search and routing domains
// (org.freedesktop.resolve1(5)). Where it does not run there are none. The package never
// starts it, and logs nothing.
package resolved
