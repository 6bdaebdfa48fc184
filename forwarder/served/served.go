// SPDX-License-Identifier: Apache-2.0

// Package served carries the name of the server that answered a query from the upstream group,
// which knows it, to the forwarder, which reports it: past the wrappers between them, which pass on
// the context of the query. It imports nothing of Sotto.
package served

import (
	"context"
	"sync/atomic"
)

// Context is a context with a record of the first server that answered. It allocates nothing of its
// own: a query's memory can contain it. The zero value needs a Context.
type Context struct {
	context.Context
	server atomic.Pointer[string]
}

type key struct{}

// Value implements [context.Context].
func (c *Context) Value(k any) any {
	if k == (key{}) {
		return c
	}
	return c.Context.Value(k)
}

// Server returns the server, or "" if none answered.
func (c *Context) Server() string {
	if s := c.server.Load(); s != nil {
		return *s
	}
	return ""
}

// By records that a server answered the query with that context. It has no effect on other
// contexts, or if a server is recorded already.
func By(ctx context.Context, server *string) {
	if c, ok := ctx.Value(key{}).(*Context); ok {
		c.server.CompareAndSwap(nil, server)
	}
}
