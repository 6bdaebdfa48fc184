// SPDX-License-Identifier: Apache-2.0

// Package hits lets the kernel answer cached queries (bpf/hits.c): its program and maps, and
// what user space writes to them. Its only caller is package intercept.
//
// User space decides and the kernel repeats. A [Table] holds entries: complete answers, each for
// one question and one class of slots. Rules treat all slots of a class alike for every name. The
// package knows neither rules nor DNS, except where the parts of a message are.
//
// It promises:
//
//   - No entry is given after [Table.Invalidate] has returned that was stored with an earlier
//     generation, whatever runs concurrently.
//   - The memory of an entry is not reused while a program may read it: after an entry was
//     removed, the package waits until every program that may have found it has ended.
//   - The number of entries is constant. The least used ones are replaced first, also within a bucket of the index.
//   - Program and maps are pinned and outlive the process: after a crash the kernel answers
//     until the entries expire. [Table.Start] ends that.
//
// At most one process writes to the maps of an instance: between Start and [Table.Stop].
package hits
