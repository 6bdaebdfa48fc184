// SPDX-License-Identifier: Apache-2.0

// Package netlab builds small networks (labs) from network namespaces: hosts, links
// between them, a LAN with nameservers, containers behind a masquerading bridge, and
// cgroups for processes. It is used by `sotto demo` and, through internal/netlab/labtest,
// by the tests.
//
// A lab is isolated: none of its namespaces is connected to the namespace of the process.
// A packet that was not intercepted reaches a nameserver of the lab or causes an error; it
// never reaches a real network.
//
// Names contain the PID and the PID namespace, so that several labs can coexist. Close
// removes everything; New removes what killed processes left. Creating a lab needs root.
package netlab
