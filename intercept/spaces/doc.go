// SPDX-License-Identifier: Apache-2.0

// Package spaces knows the network namespaces of this machine: [Finder] finds one by the cookie
// that the hooks read, and [Owners] finds the workload to which one belongs. Its callers are
// sotto/intercept and sotto/intercept/local.
package spaces
