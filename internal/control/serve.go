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
	// readTime limits the reading of a request's header.
	readTime = 5 * time.Second

	// shutdownTime limits the wait for pending responses when the process exits.
	shutdownTime = time.Second
)

// ReadyPath is the path of the request whether queries are answered (GET).
const ReadyPath = "/v1/ready"

// Handlers carry out the requests.
type Handlers struct {
	// Reload, if not nil, reloads the configuration. Its error is sent to the client. The context ends
	// when the client disconnects, or when Serve returns.
	Reload func(context.Context) error

	// Replace, if not nil, handles the request of a process to take over on the given
	// terms. It returns an error to refuse, or else a function that takes the connection
	// to that process over.
	Replace func(terms []byte) (func(*net.UnixConn), error)

	// Routes are further requests, by the pattern of [http.ServeMux]. Those with the method GET
	// must change nothing, since members of the socket's group may send them. The context of a request
	// ends when the client disconnects, or when Serve returns.
	Routes map[string]http.HandlerFunc
}

// Serve answers requests until ctx ends, and then removes the socket and returns nil. Requests of
// users other than root and the process's own are answered with 403, except GET.
func (l *Listener) Serve(ctx context.Context, h Handlers) error {
	mux := http.NewServeMux()
	if h.Reload != nil {
		mux.HandleFunc("POST /reload", func(w http.ResponseWriter, r *http.Request) {
			if err := h.Reload(r.Context()); err != nil {
				http.Error(w, err.Error(), http.StatusUnprocessableEntity)
				return
			}
			fmt.Fprintln(w, "reloaded")
		})
	}
	if h.Replace != nil {
		mux.HandleFunc("POST "+replacePath, func(w http.ResponseWriter, r *http.Request) { replace(w, r, h.Replace) })
	}
	for pattern, handle := range h.Routes {
		mux.HandleFunc(pattern, handle)
	}
	clients := peers{readers: map[net.Conn]struct{}{}}
	g, ctx := errgroup.WithContext(ctx)
	srv := &http.Server{
		Handler: restrict(mux), ReadHeaderTimeout: readTime, MaxHeaderBytes: 4096,
		BaseContext: func(net.Listener) context.Context { return ctx },
		ConnContext: clients.accept, ConnState: clients.changed,
	}
	g.Go(func() error {
		if err := srv.Serve(l.l); !errors.Is(err, http.ErrServerClosed) {
			return fmt.Errorf("serve the control socket: %w", err)
		}
		return nil
	})
	g.Go(func() error {
		<-ctx.Done()
		end, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdownTime)
		defer cancel()
		if srv.Shutdown(end) != nil {
			return srv.Close() // a client is slow, and gets no response
		}
		return nil
	})
	return errors.Join(g.Wait(), l.Close())
}
