// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"sotto/intercept"
	"sotto/internal/control"
)

// opened is a seal whose hooks are not live yet.
type opened struct {
	l     *seal
	from  *predecessor // nil: there is none
	terms terms
}

func (o opened) close() error { return errors.Join(o.l.Close(), o.from.close()) }

// open opens the seal, and where it is to replace one asks the process that runs to hand over.
func (st *steering) open(ctx, outlasting context.Context, cfg intercept.Config, replace bool, stops *stopper) (o opened, err error) {
	o.terms = termsOf(cfg)
	if !replace {
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
		from, err := askToYield(ctx, path, o.terms, st.log)
		if err == nil {
			o.from = from
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
