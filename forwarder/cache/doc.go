// SPDX-License-Identifier: Apache-2.0

// Package cache stores upstream replies as bytes, within a memory limit. Its only caller is
// [sotto/forwarder].
//
// It promises:
//
//   - [Cache.Get] does not allocate and takes no lock that a writer holds for long. It
//     never returns an answer that was stored under another key, and marks expired
//     answers ([Stale]).
//   - Stored replies were checked by [wire.ParseReply], whether they come from an upstream
//     or from a file, and their TTL allows caching. They are copies that are never
//     modified.
//   - Failures are not stored; [sotto/forwarder/failures] remembers those.
//   - The memory used is limited to [Config.MaxBytes], overhead included, except for the
//     latest writes: the eviction policy (W-TinyLFU, implemented by otter) runs
//     asynchronously. The garbage collector's overhead is extra: see [GCPercent].
//
// The cache does not query upstreams. [Answer] reports to the caller whether to refresh the
// answer, and whether to wait for the result; the caller reports the result with
// [Cache.Put] or [Cache.Failed].
//
// The current time is an argument. It is used as wall-clock time on purpose: the monotonic
// clock stops while a machine is suspended, so a laptop would resume with outdated answers.
// If the wall clock is set back, answers stored after the new time are misses.
//
// Expired entries remain until they are replaced or evicted, for serve-stale (RFC 8767).
// The memory limit includes them. The caller removes those that an answer supersedes which
// may not be cached.
package cache
