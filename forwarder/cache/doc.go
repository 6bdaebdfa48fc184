// SPDX-License-Identifier: Apache-2.0

// Package cache keeps upstream replies as the bytes that they arrived in,
// bounded in memory. Its only caller is [sotto/forwarder].
//
// What it promises:
//
//   - [Cache.Get] allocates nothing, takes no lock that a writer holds for
//     long, and never returns what was stored under another key, or what has
//     expired without saying so ([Stale]).
//   - What is kept was checked by [wire.ParseReply], be it from an upstream or
//     from a file, says itself that it may be cached, and is a copy of the
//     cache's own that nobody changes.
//   - A SERVFAIL is kept for seconds, and never in place of an answer.
//   - The memory taken stays at [Config.MaxBytes], overhead included, but for
//     what was written in the last moments: the eviction policy (W-TinyLFU, of
//     otter) works behind the writers. The garbage collector's share comes on
//     top: see [GCPercent].
//
// It answers from what it has and tells what is to be done ([Answer]: refresh
// this, do not wait for that), and knows no upstream. Who asks does it, and says
// how it ended, with [Cache.Put] or [Cache.Failed].
//
// Time is passed in. It is read as wall-clock time on purpose: the monotonic
// clock stands still while a machine is suspended, and a laptop would wake to
// answers of yesterday. A wall clock that was set back makes what was stored
// after that moment a miss.
//
// Expired entries stay until they are replaced or evicted: serve-stale (RFC
// 8767) looks for them, and the bound holds with them.
package cache
