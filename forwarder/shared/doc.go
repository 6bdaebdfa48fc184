// SPDX-License-Identifier: Apache-2.0

// Package shared is a second-level cache: answers that several instances of Sotto share in a
// key-value store (a [Store], such as Valkey or Redis), so that a new instance does not start
// with an empty cache. Its only users are [sotto/forwarder], which asks it after a miss of its
// own cache, and the daemon, which runs it.
//
// It promises:
//
//   - The store never delays a query by more than [Config.Timeout], and never makes one fail.
//     After a failure the breaker opens: no query waits for the store until it has answered a
//     probe in time. Probes run in the background, with growing pauses, so a store that hangs
//     costs the queries at that moment one timeout, and later queries nothing.
//   - The work in progress is limited: [readers] requests, [maxLookups] waiting lookups and
//     [maxWrites] waiting writes. What exceeds that is skipped and counted. No goroutine is
//     started per query.
//   - Values are data from another machine. [codec] accepts one only if it was stored for the
//     very question, by a group of the same settings (that is part of the key), not in the
//     future, and if [wire.ParseReply] accepts its message. Anything else is a miss.
//   - With a secret, the store sees neither names nor answers, and cannot forge any
//     (AES-256-GCM; names are HMACs). Without one, a checksum finds damage only, and a host that
//     can write to the store can forge answers.
//
// The age of an answer counts from when an upstream sent it, by the clock of the instance that
// stored it. So the clocks of instances should agree within [clockSlack].
package shared
