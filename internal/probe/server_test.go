// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"context"
	"errors"
	"net/http"
	"path/filepath"
	"strings"
	"testing"

	"sotto/internal/control"
)

func ask(t *testing.T, path, method, target string) error {
	t.Helper()
	body, err := control.Request(t.Context(), path, method, target, nil)
	if err == nil {
		err = body.Close()
	}
	return err
}

// TestServer: the state can change, nothing else is answered, and Close removes the socket.
func TestServer(t *testing.T) {
	path := filepath.Join(t.TempDir(), "new", "probe.sock")
	var s, other Server
	if err := s.Serve(context.Background(), path, func() (bool, string) { return false, "starting" }); err != nil {
		t.Fatal(err)
	}
	if err := ask(t, path, http.MethodGet, control.ReadyPath); err == nil || err.Error() != "starting" {
		t.Errorf("at the start: %v", err)
	}
	s.Set(func() (bool, string) { return true, "ready" })
	if err := ask(t, path, http.MethodGet, control.ReadyPath); err != nil {
		t.Errorf("ready: %v", err)
	}
	for _, r := range [][2]string{{"GET", "/v1/status"}, {"POST", "/reload"}, {"POST", control.ReadyPath}} {
		if ask(t, path, r[0], r[1]) == nil {
			t.Errorf("%s was answered", r)
		}
	}
	if err := other.Serve(t.Context(), path, nil); err == nil || !strings.Contains(err.Error(), "probe-socket") {
		t.Errorf("a second process at the same path: %v", err)
	}
	if err := errors.Join(s.Close(), other.Close()); err != nil {
		t.Error(err)
	}
	if err := ask(t, path, http.MethodGet, control.ReadyPath); !errors.Is(err, control.ErrNotRunning) {
		t.Errorf("after Close: %v", err)
	}
	var none *Server
	none.Set(nil)
	if err := none.Close(); err != nil {
		t.Error(err)
	}
}
