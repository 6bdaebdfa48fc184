// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"time"

	"sotto/intercept"
	"sotto/internal/control"
)

// replaceMode is the flag --replace.
type replaceMode uint8

const (
	replaceNot  replaceMode = iota
	replaceThis             // take over from the process that runs
	replaceBack             // also from one that has replaced this one
)

func (m replaceMode) String() string { return [...]string{"false", "true", "back"}[m] }

// Type is that of a flag without a value, which may have one.
func (m *replaceMode) Type() string { return "bool" }

func (m *replaceMode) Set(text string) error {
	for _, mode := range []replaceMode{replaceNot, replaceThis, replaceBack} {
		if text == mode.String() {
			*m = mode
			return nil
		}
	}
	return errors.New("want --replace or --replace=back")
}

// opened is a seal whose hooks are not live yet.
type opened struct {
	l        *seal
	from     *predecessor // nil: there is none
	terms    terms
	replaced []string // see lineage
}

func (o opened) close() error { return errors.Join(o.l.Close(), o.from.close()) }

// open opens the seal, and in the modes for it asks the process that runs to hand over.
func (st *steering) open(ctx, outlasting context.Context, cfg intercept.Config, mode replaceMode, stops *stopper) (o opened, err error) {
	if o.terms, err = termsOf(cfg, mode); err != nil {
		return o, err
	}
	if mode == replaceNot {
		o.l, err = openSeal(outlasting, st.current(), cfg, st.log)
		return o, err
	}
	stops.become(borrows)
	if err := st.openInstead(ctx, outlasting, cfg, &o); err != nil {
		return o, err
	}
	if o.from == nil {
		stops.become(owns)
	}
	if ctx.Err() != nil {
		return o, errors.Join(errWithdrawn, o.close())
	}
	return o, nil
}

// openAgain is the pause between two attempts to open an instance that is another's.
const openAgain = 100 * time.Millisecond

// openInstead opens the seal in the place of the process that runs. Where none does, it is
// a start as any other. A process that is stopping, or being replaced by a third one, is
// waited for, up to replaceTime.
func (st *steering) openInstead(ctx, outlasting context.Context, cfg intercept.Config, o *opened) error {
	path := st.current().control
	if path == "" {
		return fmt.Errorf("control is %q: --replace asks the Sotto that runs on its control socket; name it", controlOff)
	}
	end := time.Now().Add(replaceTime)
	for waits := false; ; waits = true {
		from, ids, err := askToYield(ctx, path, o.terms, st.log)
		if err == nil {
			o.from, o.replaced = from, append(o.replaced, ids...)
			if o.l, err = openSeal(outlasting, st.current(), cfg, st.log); err == nil {
				return nil
			}
			err = errors.Join(err, from.close())
		}
		switch {
		case ctx.Err() != nil:
			return errWithdrawn
		case from != nil, !errors.Is(err, control.ErrBusy) && !errors.Is(err, intercept.ErrOwned), time.Now().After(end):
			return err
		case !waits:
			st.log.Info("waiting for the Sotto that runs", "reason", err)
		}
		select {
		case <-time.After(openAgain):
		case <-ctx.Done():
		}
	}
}

// replaced lets go of the seal after another process has taken over. Where this one is to
// stay it returns what to wait for.
func (st *steering) replaced(l *seal, err error) (stop <-chan struct{}, _ error) {
	err = errors.Join(err, st.heir.done(), l.abandon())
	asked := st.heir.stops.asked
	st.heir.l, st.heir.st = nil, nil // the cause of run's context refers to st.heir
	if st.current().whenReplaced == replacedExit || isClosed(asked) {
		st.log.Info("another Sotto has taken over")
		return nil, err
	}
	if err != nil {
		st.log.Error("let go of what another Sotto has taken over", "err", err)
	}
	st.log.Info("another Sotto has taken over; waiting to be stopped (when-replaced)")
	return asked, nil
}

// freeAndWait waits for a stop, which may be long, without the memory that nothing uses any
// more: the cache, and maps of the kernel's, which are unmapped when they are collected.
func freeAndWait(stop <-chan struct{}) {
	debug.FreeOSMemory()
	<-stop
}
