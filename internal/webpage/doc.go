// SPDX-License-Identifier: Apache-2.0

// Package webpage is a read-only web page with the state of a running Sotto: what `sotto status`
// shows, rates of workloads and upstreams, and plots of the last minutes.
//
// The page is complete without JavaScript; with it, it updates itself. It uses nothing from other
// servers, and its Content-Security-Policy permits nothing else. It has no names that clients
// asked for, except those in messages of the log.
package webpage
