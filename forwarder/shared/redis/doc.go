// SPDX-License-Identifier: Apache-2.0

// Package redis is a [shared.Store] in a Redis or Valkey server. It is apart from package shared
// so that the forwarder does not depend on the client library. Its only user is the daemon.
//
// A Store has a fixed number of connections, which only a probe opens ([Store.Ping]), so a lookup
// never waits for a handshake. A connection that fails is closed, and the breaker of package
// shared then requests a probe.
//
// The library is redigo. The official client, go-redis, makes the program 8 MB larger (redigo:
// 0.1 MB), since a Go program that calls methods by reflection keeps all of its 600 commands, and
// its pool opens connections while a request waits. What the server sends is checked before redigo
// reads it (replies.go), because redigo trusts the lengths in it.
//
// A cluster is not supported: the entries of one request would be on different servers.
package redis
