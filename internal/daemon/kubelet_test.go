// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"strings"
	"testing"
	"time"

	"sotto/internal/config"
	"sotto/internal/kubernetes/kubelet"
)

// TestWatchKubelet: what the kubelet knows is put in force once when it starts after Sotto, and an
// error is logged once.
func TestWatchKubelet(t *testing.T) {
	results := []func() (kubelet.Found, error){ // of each look
		func() (kubelet.Found, error) { return kubelet.Found{Pending: true}, nil },
		func() (kubelet.Found, error) { return kubelet.Found{Pending: true}, nil },
		func() (kubelet.Found, error) { return kubelet.Found{}, errors.New("broken") },
		func() (kubelet.Found, error) { return kubelet.Found{}, errors.New("broken") },
		func() (kubelet.Found, error) {
			return kubelet.Found{Source: kubelet.DefaultFile, Config: kubelet.Config{
				ClusterDomain: "cluster.local", ClusterDNS: []netip.Addr{netip.MustParseAddr("10.96.0.10")},
			}}, nil
		},
	}
	s, err := config.Parse("sotto.toml", nil)
	if err != nil {
		t.Fatal(err)
	}
	looks := 0
	p, err := s.Plan(config.Options{Kubernetes: config.Kubernetes{Kubelet: func(string) (kubelet.Found, error) {
		looks++
		return results[min(looks, len(results))-1]()
	}}})
	if err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	d := &daemon{resolver: &resolver{changes: make(chan changeRequest)}, log: slog.New(slog.NewTextHandler(&log, nil)), plan: p}
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	tick, stopped := make(chan time.Time), make(chan struct{})
	go func() {
		d.watchKubelet(ctx, tick)
		close(stopped)
	}()
	var applied []config.Plan
	for ticks := 0; ticks < 7; { // of which the last may not be handled
		select {
		case tick <- time.Time{}:
			ticks++
		case c := <-d.resolver.changes:
			applied = append(applied, c.plan)
			c.done <- nil
		}
	}
	stop()
	<-stopped
	if len(applied) != 1 || !applied[0].Kubernetes.Cluster.Known() || applied[0].Rules.Set.Len() == 0 || d.current().Kubernetes.Pending {
		t.Errorf("%d changes; now %+v", len(applied), d.current().Kubernetes)
	}
	for text, want := range map[string]int{"the kubelet runs now": 1, "names of the cluster go to": 1, "err=broken": 1} {
		if n := strings.Count(log.String(), text); n != want {
			t.Errorf("%q was logged %d times, want %d:\n%s", text, n, want, &log)
		}
	}
}

// TestIncompleteKubelet: the kubelet runs, but does not say what the cluster's domain is.
func TestIncompleteKubelet(t *testing.T) {
	s, err := config.Parse("sotto.toml", nil)
	if err != nil {
		t.Fatal(err)
	}
	found := kubelet.Found{Pending: true}
	p, err := s.Plan(config.Options{Kubernetes: config.Kubernetes{Kubelet: func(string) (kubelet.Found, error) { return found, nil }}})
	if err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	d := &daemon{log: slog.New(slog.NewTextHandler(&log, nil)), plan: p}
	found = kubelet.Found{Source: "/etc/kubelet.yaml"}
	for range 2 {
		if err := d.findKubelet(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if n := strings.Count(log.String(), "domain or resolver is not known"); n != 1 || d.current().Kubernetes.Pending {
		t.Errorf("warned %d times, want once; %+v\n%s", n, d.current().Kubernetes, &log)
	}
}
