// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"context"
	"fmt"
	"net/http"
	"sync/atomic"

	"sotto/internal/control"
)

// State reports whether the process is ready, and a text for people: what it does, or why it
// is not ready. It must not block.
type State func() (ready bool, text string)

// Server answers requests between Serve and Close. Before Serve, and if it is nil, its other
// methods do nothing.
type Server struct {
	state atomic.Pointer[State]
	stop  context.CancelFunc
	done  chan error
}

// Serve creates the socket at path and answers requests with the given state, until ctx ends
// or Close is called. It is called once.
func (s *Server) Serve(ctx context.Context, path string, state State) error {
	l, err := control.Listen(ctx, path, 0)
	if err != nil {
		return fmt.Errorf("probe-socket: %w", err)
	}
	s.state.Store(&state)
	ctx, s.stop = context.WithCancel(ctx)
	s.done = make(chan error, 1)
	go func() {
		s.done <- l.Serve(ctx, control.Handlers{Routes: map[string]http.HandlerFunc{"GET " + control.ReadyPath: s.answer}})
	}()
	return nil
}

// Set replaces the state. It may be called concurrently with requests.
func (s *Server) Set(state State) {
	if s != nil {
		s.state.Store(&state)
	}
}

// Close stops answering and removes the socket.
func (s *Server) Close() error {
	if s == nil || s.stop == nil {
		return nil
	}
	s.stop()
	return <-s.done
}

func (s *Server) answer(w http.ResponseWriter, _ *http.Request) {
	ready, text := (*s.state.Load())()
	if !ready {
		http.Error(w, text, http.StatusServiceUnavailable)
		return
	}
	fmt.Fprintln(w, text)
}
