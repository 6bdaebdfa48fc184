// SPDX-License-Identifier: Apache-2.0

// Package service is the interface to the service manager, systemd: notifications
// (sd_notify(3)), the watchdog (sd_watchdog_enabled(3)), sockets that it passes
// (sd_listen_fds(3)), and the unit of the calling process (org.freedesktop.systemd1(5)).
//
// On `systemctl restart`, systemd stops the main process of a service before it starts the new
// one. For a takeover ([sotto/internal/takeover]) another process has to answer meanwhile, the
// bridge: the command in ExecStop= starts it, it takes over from the old main process,
// KillMode=process leaves it alone, and the new main process takes over from it.
package service
