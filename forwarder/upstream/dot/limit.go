// SPDX-License-Identifier: Apache-2.0

package dot

import (
	"errors"
	"io"
	"syscall"
	"time"
)

const (
	// fewReplies is the number of replies below which a closed connection does not
	// indicate a limit, but a server in trouble.
	fewReplies = 16

	// limitTime is how long a limit is assumed without being confirmed, because a server's
	// configuration may change.
	limitTime = 10 * time.Minute
)

// queryLimit estimates how many queries a server accepts on one connection (nsd's
// tcp-query-count, dnsdist's setMaxTCPQueriesPerConnection). Servers do not announce it:
// they close the connection, and the queries in flight are lost and sent again. Two
// connections closed after a similar number of replies are taken as a limit, and from
// then on connections are replaced before they reach it. The zero value has no limit. It
// is pure.
type queryLimit struct {
	limit int // queries on one connection; 0 if unknown
	last  int // replies on the latest connection that the server closed
	until time.Time
}

// recordCut records a connection that its server closed after that many replies, with
// queries in flight.
func (l *queryLimit) recordCut(replies int, now time.Time) {
	if replies < fewReplies {
		return
	}
	if l.last != 0 && 4*max(l.last-replies, replies-l.last) <= min(l.last, replies) {
		// The greater one, because replies may be lost when a connection is reset, while
		// a server never sends more replies than it accepts queries.
		l.limit, l.until = max(l.last, replies), now.Add(limitTime)
	}
	l.last = replies
}

// at returns the limit at that time; 0 if it is unknown.
func (l *queryLimit) at(now time.Time) int {
	if !now.Before(l.until) {
		return 0
	}
	return l.limit
}

// isCut reports whether err means that the server closed the connection.
func isCut(err error) bool {
	return errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)
}
