// SPDX-License-Identifier: Apache-2.0

// Package order decides in which order the servers of a group are asked, and which one is measured
// in addition. Everything in it is pure: the state of the servers and a random number determine the
// result. It is called for every query that the cache does not answer, and allocates nothing.
package order
