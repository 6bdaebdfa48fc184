// SPDX-License-Identifier: Apache-2.0

// Package clienttest runs client processes for tests. A client runs in the cgroup and the
// network namespace of a workload, and opens and uses sockets by commands that it receives
// from the test.
//
// A client is the test binary itself: its TestMain calls [Main] if the environment variable
// [EnvVar] is "client". The package also builds the packets of clients that use raw
// sockets. It is for tests only.
package clienttest
