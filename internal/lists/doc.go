// SPDX-License-Identifier: Apache-2.0

// Package lists fetches lists of names over HTTPS, and keeps them on disk so that they are
// there after a restart and without a network. It knows no rules and no resolver: the caller
// resolves host names, and reads the lists when one has changed.
//
//   - [Store] is a directory with one file per list.
//   - [Fetcher] fetches one list into a store, if it has changed.
//   - [Updater] fetches all lists on a schedule.
//   - [NewClient] returns an HTTP client that never uses the system's resolver, and no
//     connection without TLS.
//
// It promises: the file of a list is replaced in one step, and only by a complete list. A
// response that is cut, is a web page, has hardly any names or far fewer than before
// ([ErrBroken]) leaves it as it is. A server cannot block a top-level domain: names of one label
// are skipped, because one line of an error message would be enough. Fetching a list of any
// length needs memory for one line.
package lists
