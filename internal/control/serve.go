// SPDX-License-Identifier: Apache-2.0

package control

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"

	"golang.org/x/sync/errgroup"
)

const (
	// readTime is for a request's header.
	readTime = 5 * time.Second

	// endTime is for the replies that are owed when the process ends.
	endTime = time.Second
)

// Handlers are what may be asked for.
type Handlers struct {
	// Reload reads the configuration again. Its error is told to whoever asked;
	// the context ends when they no longer wait, or Serve ends.
	Reload func(context.Context) error

	// Replace, if not nil, is asked by a process that wants to take over, on terms that
	// it and this one understand. It returns why that cannot be, or else who takes the
	// connection to that process, and with it the rest of the conversation.
	Replace func(terms []byte) (func(*net.UnixConn), error)
}

// Serve answers until ctx ends, and takes the socket away. It returns nil when
// ctx ended it.
func (l *Listener) Serve(ctx context.Context, h Handlers) error {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /reload", func(w http.ResponseWriter, r *http.Request) {
		if err := h.Reload(r.Context()); err != nil {
			http.Error(w, err.Error(), http.StatusUnprocessableEntity)
			return
		}
		fmt.Fprintln(w, "reloaded")
	})
	if h.Replace != nil {
		mux.HandleFunc("POST "+replacePath, func(w http.ResponseWriter, r *http.Request) { replace(w, r, h.Replace) })
	}
	g, ctx := errgroup.WithContext(ctx)
	srv := &http.Server{
		Handler: mux, ReadHeaderTimeout: readTime, MaxHeaderBytes: 4096,
		BaseContext: func(net.Listener) context.Context { return ctx },
	}
	g.Go(func() error {
		if err := srv.Serve(l.l); !errors.Is(err, http.ErrServerClosed) {
			return fmt.Errorf("answer on the control socket: %w", err)
		}
		return nil
	})
	g.Go(func() error {
		<-ctx.Done()
		end, cancel := context.WithTimeout(context.WithoutCancel(ctx), endTime)
		defer cancel()
		if srv.Shutdown(end) != nil {
			return srv.Close() // somebody is slow: they hear nothing
		}
		return nil
	})
	return errors.Join(g.Wait(), l.Close())
}
