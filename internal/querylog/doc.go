// SPDX-License-Identifier: Apache-2.0

// Package querylog writes a line of JSON for each query, or for a sample of them.
//
// [Log.Observe] copies what it needs into a bounded queue. It never blocks; a query that finds
// the queue full is counted as lost. [Log.Run] writes the lines, in batches, and reports in the
// log itself how many were lost. Names may be replaced by hashes, see [hasher].
package querylog
