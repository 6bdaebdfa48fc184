// SPDX-License-Identifier: Apache-2.0

// Package netlab builds small networks out of namespaces: hosts, wires between
// them, a LAN with nameservers, containers behind a masquerading bridge, and
// cgroups to run things in. `sotto demo` and the tests (through
// internal/netlab/labtest) stand on it.
//
// A lab has no way out. No namespace it makes is joined to the one the process
// runs in, so a packet that should have been caught meets a nameserver of the
// lab or an error, never a real network.
//
// Names carry the process and its PID namespace, so labs side by side do not meet. Close
// takes everything away; what a killed process left is taken away by the next
// New. Making a lab needs root.
package netlab
