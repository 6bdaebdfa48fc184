// SPDX-License-Identifier: Apache-2.0

package lists

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// updating is an Updater whose rules have the list of a site.
type updating struct {
	*site
	*Updater
	out     bytes.Buffer
	mu      sync.Mutex // of inForce; the Updater has its own
	inForce Info
	applied atomic.Int64
	fail    atomic.Pointer[error] // of apply
}

func newUpdating(t *testing.T) *updating {
	u := &updating{site: newSite(t)}
	u.inForce = Info{URL: u.url}
	config := func() Config {
		u.mu.Lock()
		defer u.mu.Unlock()
		return Config{Store: u.store, Lists: []Info{u.inForce}, Interval: time.Hour, Client: u.fetcher.Client}
	}
	apply := func(context.Context) error {
		if err := u.fail.Load(); err != nil {
			return *err
		}
		u.mu.Lock()
		defer u.mu.Unlock()
		u.applied.Add(1)
		var err error
		_, u.inForce, err = u.store.Names(u.url)
		return err
	}
	u.Updater = NewUpdater(config, apply, slog.New(slog.NewTextHandler(&u.out, nil)))
	return u
}

// run runs the Updater until stop is called.
func (u *updating) run(t *testing.T) (stop func()) {
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- u.Run(ctx) }()
	return sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// TestUpdate: a list is in force when Update returns; failures keep it, and are logged once.
func TestUpdate(t *testing.T) {
	u := newUpdating(t)
	set := func(f http.HandlerFunc) { u.serve.Store(&f) }
	set(text("a.example\n"))
	stop := u.run(t)
	defer stop()
	update := func(applied int64, names int, failure string) {
		t.Helper()
		if err := u.Update(t.Context()); err != nil {
			t.Error(err)
		}
		s := u.States()[0]
		if n := u.applied.Load(); n != applied || s.Names != names || !strings.Contains(s.Error, failure) || (failure == "") != (s.Error == "") {
			t.Errorf("applied %d times, %+v: want %d times, %d names and %q", n, s, applied, names, failure)
		}
	}
	update(1, 1, "")
	update(1, 1, "")
	set(http.NotFound)
	for range 3 {
		update(1, 1, "404")
	}
	set(text("<html>"))
	update(1, 1, "web page")
	set(text("b.example\nc.example\n"))
	update(2, 2, "")
	if next := time.Until(u.States()[0].Next); next < 50*time.Minute || next > time.Hour {
		t.Errorf("next in %s", next)
	}

	// Rules that cannot be put in force: the next round tries again.
	failure := errors.New("no memory")
	u.fail.Store(&failure)
	set(text("d.example\n"))
	if err := u.Update(t.Context()); !errors.Is(err, failure) {
		t.Error(err)
	}
	u.fail.Store(nil)
	update(3, 1, "")

	// A damaged file is fetched again although the server would confirm it.
	confirmed := 0
	set(tag("e.example\nf.example\n", &confirmed))
	update(4, 2, "")
	if err := os.Truncate(u.store.Path(u.url), headerLen+4); err != nil {
		t.Fatal(err)
	}
	u.mu.Lock()
	u.inForce = Info{URL: u.url} // what reading the list results in
	u.mu.Unlock()
	update(5, 2, "")
	update(5, 2, "")
	if confirmed != 1 {
		t.Errorf("%d confirmations", confirmed)
	}
	// A list that has rightly become short is accepted when its file is removed.
	var long strings.Builder
	for i := range 100 {
		fmt.Fprintf(&long, "n%d.example\n", i)
	}
	set(text(long.String()))
	update(6, 100, "")
	set(text("one.example\n"))
	update(6, 100, "it has 1 names, and had 100")
	if err := os.Remove(u.store.Path(u.url)); err != nil {
		t.Fatal(err)
	}
	update(7, 1, "")
	stop()
	if log := u.out.String(); strings.Count(log, "level=WARN") != 4 || strings.Count(log, "stays in force\"") != 3 {
		t.Errorf("want one warning for each of four reasons:\n%s", log)
	}
}

// TestNewerInStore: a list that another process has stored is put in force without a transfer.
func TestNewerInStore(t *testing.T) {
	u := newUpdating(t)
	f := text("a.example\n")
	u.serve.Store(&f)
	if _, err := u.fetcher.Fetch(t.Context(), u.url, Info{}); err != nil {
		t.Fatal(err)
	}
	old, err := u.store.Info(u.url)
	if err != nil {
		t.Fatal(err)
	}
	u.inForce = old
	f = text("b.example\n")
	if _, err := u.fetcher.Fetch(t.Context(), u.url, old); err != nil {
		t.Fatal(err)
	}
	if _, err := u.round(t.Context(), false); err != nil || u.applied.Load() != 1 || u.calls.Load() != 2 {
		t.Errorf("applied %d times, %d transfers, %v", u.applied.Load(), u.calls.Load(), err)
	}
}

// TestSchedule: retries have growing pauses, and a list that was fetched is checked once in an
// interval. The server is a function, so that the clock can be simulated.
func TestSchedule(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var calls []time.Duration
		start := time.Now()
		dir := t.TempDir()
		info := Info{URL: testURL}
		client := &http.Client{Transport: transport(func(r *http.Request) (*http.Response, error) {
			calls = append(calls, time.Since(start).Round(time.Second))
			if len(calls) <= 4 {
				return nil, errors.New("no network")
			}
			body := io.NopCloser(strings.NewReader(fmt.Sprintf("n%d.example\n", len(calls))))
			return &http.Response{StatusCode: http.StatusOK, Body: body, Request: r}, nil
		})}
		config := func() Config {
			return Config{Store: Store{dir}, Lists: []Info{info}, Interval: 10 * time.Hour, Client: client}
		}
		apply := func(context.Context) (err error) {
			info, err = Store{dir}.Info(testURL)
			return err
		}
		u := NewUpdater(config, apply, slog.New(slog.DiscardHandler))
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Hour)
		defer cancel()
		if err := u.Run(ctx); err != nil {
			t.Fatal(err)
		}
		want := []time.Duration{0, 5 * time.Second, 15 * time.Second, 35 * time.Second, 75 * time.Second}
		if len(calls) != 8 || fmt.Sprint(calls[:5]) != fmt.Sprint(want) {
			t.Fatalf("fetched after %v", calls)
		}
		for i, c := range calls[5:] {
			if pause := c - calls[i+4]; pause < 9*time.Hour || pause > 10*time.Hour {
				t.Errorf("a pause of %s", pause)
			}
		}
	})
}

type transport func(*http.Request) (*http.Response, error)

func (f transport) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }
