// SPDX-License-Identifier: Apache-2.0

package lists

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
)

const (
	// minRetry is the pause after the first failure: at the start of the machine the network
	// is often there a moment later. It doubles up to maxRetry.
	minRetry = 5 * time.Second
	maxRetry = time.Hour

	// parallel is how many lists are fetched at the same time.
	parallel = 4

	// spread is the part of an interval, one in spread, by which fetches are moved, so that
	// many machines do not ask a server at the same time.
	spread = 10
)

// Config is what an [Updater] has to do. It may change with every reload.
type Config struct {
	Store    Store
	Lists    []Info        // those of the rules in force, each once; only the URL: none is
	Interval time.Duration // between two fetches of a list
	Client   *http.Client  // see [NewClient]
}

// State is the state of one list.
type State struct {
	Info
	File  string    // where it is stored
	Next  time.Time // when it is fetched again; zero: at once
	Error string    // of the last fetch; "" if it succeeded

	set      time.Time // when Next was set
	failures int
	last     string // error that was logged
}

// schedule sets Next to the time after a pause, by the wall clock: the monotonic one stops while
// the machine is suspended.
func (s *State) schedule(now time.Time, pause time.Duration) {
	s.set = now.Round(0)
	s.Next = s.set.Add(pause)
}

// wait returns the time until the list is due. It is due at once if the clock was set back since
// Next was set: how much of the pause has passed is then unknown.
func (s *State) wait(now time.Time) time.Duration {
	now = now.Round(0)
	if now.Before(s.set) {
		return 0
	}
	return max(0, s.Next.Sub(now))
}

// Updater fetches lists on a schedule. Its methods are safe for concurrent use.
type Updater struct {
	config func() Config
	apply  func(context.Context) error
	log    *slog.Logger

	requests chan chan<- error
	wake     chan struct{}

	mu     sync.Mutex
	states map[string]*State // by URL
}

// NewUpdater returns an Updater. It calls config before each round, and apply to put the lists
// in the store in force, if they differ from those in the configuration.
func NewUpdater(config func() Config, apply func(context.Context) error, log *slog.Logger) *Updater {
	return &Updater{
		config: config, apply: apply, log: log,
		requests: make(chan chan<- error), wake: make(chan struct{}, 1), states: map[string]*State{},
	}
}

// Run fetches lists when they are due until ctx ends, and then returns nil.
func (u *Updater) Run(ctx context.Context) error {
	var done chan<- error // of the request that the round is for
	for {
		wait, err := u.round(ctx, done != nil)
		if done != nil {
			done <- err
			done = nil
		}
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-u.wake:
		case done = <-u.requests:
		case <-ctx.Done():
		}
		timer.Stop()
		if ctx.Err() != nil {
			return nil
		}
	}
}

// Wake makes Run fetch the lists that are due by the current configuration.
func (u *Updater) Wake() {
	select {
	case u.wake <- struct{}{}:
	default:
	}
}

// Update fetches all lists, while Run runs. When it returns, those that have changed are in
// force. The error is that of apply; [Updater.States] has those of single lists.
func (u *Updater) Update(ctx context.Context) error {
	done := make(chan error, 1)
	select {
	case u.requests <- done:
	case <-ctx.Done():
		return ctx.Err()
	}
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// States returns the states of the lists, in the order of the configuration.
func (u *Updater) States() []State {
	cfg := u.config()
	u.mu.Lock()
	defer u.mu.Unlock()
	now := time.Now()
	var out []State
	for _, l := range cfg.Lists {
		out = append(out, *u.state(cfg, l, now))
	}
	return out
}

// state returns the state of a list. A list that was not fetched by this process is due when
// the stored one is old. If that was stored after now, the clock was ahead, and its age counts from
// now. If the rules do not have the stored one, it is damaged or new.
func (u *Updater) state(cfg Config, inForce Info, now time.Time) *State {
	url := inForce.URL
	file := cfg.Store.Path(url)
	s := u.states[url]
	if s == nil || s.File != file {
		s = &State{Info: inForce, File: file}
		if inForce.Hash != "" {
			s.schedule(earlier(inForce.Checked, now), pause(cfg.Interval))
		}
		u.states[url] = s
	}
	return s
}

// earlier returns the earlier one of two times.
func earlier(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}

// pause returns the time from one fetch to the next.
func pause(interval time.Duration) time.Duration { return interval - rand.N(interval/spread+1) }

// round fetches the lists that are due, or all, and puts changes in force. It returns the
// time until the next round.
func (u *Updater) round(ctx context.Context, all bool) (time.Duration, error) {
	cfg := u.config()
	var due []Info
	u.mu.Lock()
	now := time.Now()
	for _, l := range cfg.Lists {
		if s := u.state(cfg, l, now); all || s.wait(now) == 0 {
			due = append(due, l)
		}
	}
	u.mu.Unlock()
	f := Fetcher{Store: cfg.Store, Client: cfg.Client}
	var g errgroup.Group
	g.SetLimit(parallel)
	for _, l := range due {
		g.Go(func() error {
			u.fetch(ctx, &f, cfg, l)
			return nil
		})
	}
	_ = g.Wait() // none returns an error
	return u.applyChanges(ctx, cfg)
}

// fetch fetches one list and updates its state.
func (u *Updater) fetch(ctx context.Context, f *Fetcher, cfg Config, inForce Info) {
	url := inForce.URL
	var old Info
	if inForce.Hash != "" {
		old, _ = f.Store.Info(url) // the file may have been removed
	}
	changed, err := f.Fetch(ctx, url, old)
	if ctx.Err() != nil {
		return
	}
	stored, storeErr := f.Store.Info(url)
	u.mu.Lock()
	defer u.mu.Unlock()
	now := time.Now()
	s := u.state(cfg, inForce, now)
	if storeErr == nil {
		s.Info = stored
	}
	if err != nil {
		s.Error = err.Error()
		s.schedule(now, min(minRetry<<min(s.failures, 16), maxRetry, cfg.Interval))
		s.failures++
		u.logFailure(s)
		return
	}
	s.schedule(now, pause(cfg.Interval))
	s.Error, s.failures, s.last = "", 0, ""
	u.log.Info("list checked", "url", url, "changed", changed, "names", s.Names, "skipped", s.Skipped)
}

// logFailure warns once about each reason.
func (u *Updater) logFailure(s *State) {
	level := slog.LevelWarn
	if s.Error == s.last {
		level = slog.LevelDebug
	}
	s.last = s.Error
	text := "cannot fetch a list: the stored one stays in force"
	if s.Fetched.IsZero() {
		text = "cannot fetch a list, and none is stored: until it is, its rule does not apply"
	}
	u.log.Log(context.Background(), level, text, "url", s.URL, "err", s.Error, "retry", time.Until(s.Next).Round(time.Second))
}

// applyChanges puts the stored lists in force, if they differ from those that are. It returns the time
// until the next round.
func (u *Updater) applyChanges(ctx context.Context, cfg Config) (wait time.Duration, err error) {
	changed := slices.ContainsFunc(cfg.Lists, func(l Info) bool {
		stored, err := cfg.Store.Info(l.URL)
		return err == nil && stored.Hash != l.Hash
	})
	wait = maxRetry // a reload wakes Run
	if changed && ctx.Err() == nil {
		if err = u.apply(ctx); err != nil && ctx.Err() == nil {
			u.log.Warn("cannot put a changed list in force: the old rules stay", "err", err)
			wait = time.Minute
		}
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	now := time.Now()
	for _, l := range cfg.Lists {
		wait = min(wait, u.state(cfg, l, now).wait(now))
	}
	return wait, err
}
