// SPDX-License-Identifier: Apache-2.0

// Package health judges one server by its replies and failures: how long a reply usually takes, when
// one is late, for how long the server may be silent ([Meter]), and for how long it is not asked
// after failures ([Backoff]). It uses no clock: callers pass times, in ticks (of the package
// transport) or as [time.Time].
package health
