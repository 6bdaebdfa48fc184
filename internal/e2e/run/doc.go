// SPDX-License-Identifier: Apache-2.0

// Package run tests sotto run: leaks, reload, NAT, attacks and the systemd service.
package run
