// SPDX-License-Identifier: Apache-2.0

// Package takeover is the protocol with which a new `sotto run`, the successor, takes over
// from a running one, the predecessor, without losing a query.
//
// The successor sends its [Terms] in a request on the predecessor's control socket
// ([Request]). If the predecessor accepts them it releases the instance, that is, it stops
// repairing the state in the kernel, and continues to answer queries. Both processes then
// exchange messages on the same connection ([Conn]):
//
//	successor                            predecessor
//	MsgReady                        →
//	                                ←    MsgReplaced: see [Lineage] (from version 1 on)
//	                                ←    MsgSockets: the listener's sockets
//	  opens the instance, replaces the predecessor's hooks, answers queries
//	MsgTake                         →
//	                                ←    MsgTaken (from version 1 on)
//	                                       stops reading, answers what it has read
//	                                ←    MsgConn: a client's TCP connection, any number
//	                                ←    MsgDone
//
// Until MsgTake the predecessor resumes if the connection closes, if the successor is too
// slow ([Timeout]), or if it exits: the lock on the instance's record shows that. MsgRefused
// informs the successor. So at any time at most one process repairs the state in the kernel
// and at least one answers queries, whichever of the two fails.
//
// [Predecessor] is the successor's view of the other process, [Successor] the
// predecessor's. The messages never change, so that any two versions can hand over; an
// unknown kind of message ends the takeover. The package knows neither DNS nor eBPF.
package takeover
