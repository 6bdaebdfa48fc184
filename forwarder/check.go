// SPDX-License-Identifier: Apache-2.0

package forwarder

import "sotto/forwarder/wire"

// replyError means that an upstream's reply cannot be used.
type replyError struct{ text string }

func (e *replyError) Error() string { return e.text }

// EDE returns the error as clients receive it.
func (e *replyError) EDE() wire.EDE { return wire.EDE{Code: wire.EDENetworkError, Text: e.text} }

var (
	errQuestion  = &replyError{"the upstream's reply has no question, or another one"}
	errTruncated = &replyError{"the upstream's reply is truncated, although there is no limit over an encrypted connection"}
)

// checkReply parses an upstream's message, and returns an error if it is no reply to query that a
// client can use.
func checkReply(query, msg []byte) (wire.Reply, error) {
	reply, err := wire.ParseReply(msg)
	switch {
	case err != nil:
		return reply, &replyError{"the upstream's reply is malformed: " + err.Error()}
	case !wire.SameQuestion(query, reply.Msg):
		return reply, errQuestion
	case reply.Rcode > 0x0F || reply.Rcode == wire.RcodeFormErr:
		// They concern the hop to the upstream, not the name and not the client's query.
		return reply, &replyError{"the upstream rejected the query with " + wire.RcodeName(reply.Rcode)}
	case reply.TC:
		return reply, errTruncated
	}
	return reply, nil
}
