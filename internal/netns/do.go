// SPDX-License-Identifier: Apache-2.0

package netns

import (
	"fmt"
	"runtime"

	"golang.org/x/sys/unix"
)

// Do runs fn on a locked thread inside the namespace and returns what it
// returns. A goroutine that fn starts runs elsewhere: create sockets and start
// processes in fn itself. Do may be nested, and fn may call Current.
//
// When fn calls runtime.Goexit (as testing.T.FailNow does), so does Do.
func (n *NS) Do(fn func() error) error {
	return onThread(func() error {
		if err := unix.Setns(n.Fd(), unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("enter network namespace: %w", err)
		}
		return fn()
	})
}

// onThread runs fn, which may change its thread's network namespace, on a
// locked thread of its own goroutine. A goroutine that ends locked takes its
// thread with it, so when the way back fails nobody inherits a thread in the
// wrong namespace; that is why fn does not run on the caller's goroutine.
func onThread(fn func() error) error {
	var err error
	finished := false
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread()
		var home *NS
		if home, err = Current(); err != nil {
			runtime.UnlockOSThread() // nothing has been changed yet
			finished = true
			return
		}
		defer func() {
			if unix.Setns(home.Fd(), unix.CLONE_NEWNET) == nil {
				runtime.UnlockOSThread()
			}
			_ = home.Close() // read-only descriptor: closing it loses nothing
		}()
		err = fn()
		finished = true
	}()
	<-done
	if !finished {
		runtime.Goexit()
	}
	return err
}
