// SPDX-License-Identifier: Apache-2.0

// Package e2e is the harness of the end-to-end tests. They run the real program in a network
// lab ([World]), and test it as its users and clients see it. The tests are in the packages
// below: exec and run test the verbs of these names, resolve the clients, takeover the
// replacement of a running process, path the search for filters that block queries.
//
// [Main] has to be the TestMain of a package that uses the harness. The program is built once
// per test process, with the race detector if the tests have it. Only tests may import this
// package.
package e2e
