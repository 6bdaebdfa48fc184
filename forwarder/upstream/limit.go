// SPDX-License-Identifier: Apache-2.0

package upstream

import (
	"errors"
	"io"
	"syscall"
	"time"
)

const (
	// fewReplies is what a connection has to bring before its end says anything of
	// a limit. Fewer, and it is a server in trouble.
	fewReplies = 16

	// limitTime is for how long a limit is believed in without being confirmed:
	// servers are configured anew.
	limitTime = 10 * time.Minute
)

// queryLimit is what is known of how many queries a server takes on one connection
// (nsd's tcp-query-count, dnsdist's setMaxTCPQueriesPerConnection). No server says
// so: it closes the connection, and what is in flight is lost, to be sent again. Two
// connections closed after about as many replies are taken for a limit; then each is
// replaced before that. The zero value knows nothing. It is pure.
type queryLimit struct {
	most  int // queries on one connection; 0: no limit is known
	last  int // replies that the latest connection brought that was cut
	until time.Time
}

// cut enters a connection that its server closed after so many replies, with
// queries in flight.
func (l *queryLimit) cut(replies int, now time.Time) {
	if replies < fewReplies {
		return
	}
	if l.last != 0 && 4*max(l.last-replies, replies-l.last) <= min(l.last, replies) {
		// The greater: no server answers more than it takes, while of a connection
		// that was reset replies may be lost.
		l.most, l.until = max(l.last, replies), now.Add(limitTime)
	}
	l.last = replies
}

// at is the limit at that time; 0: none is known.
func (l *queryLimit) at(now time.Time) int {
	if !now.Before(l.until) {
		return 0
	}
	return l.most
}

// isCut reports whether an error says that the server ended the connection.
func isCut(err error) bool {
	return errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)
}
