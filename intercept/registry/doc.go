// SPDX-License-Identifier: Apache-2.0

// Package registry keeps the records of the instances on this machine, by which processes find each
// other and what dead ones left: a directory (0700, or 0711 if a control socket in it is for a group)
// with a file for each instance (0600, JSON) and one file that is locked for changes. Which process
// owns an instance is a lock (flock) on its record, so that the kernel ends it with the process.
//
// Only files are its matter. What a record describes is created and removed by sotto/intercept.
package registry
