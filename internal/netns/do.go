// SPDX-License-Identifier: Apache-2.0

package netns

import (
	"fmt"
	"runtime"

	"golang.org/x/sys/unix"
)

// Do runs fn on a locked thread inside the namespace and returns the error of fn. A
// goroutine that fn starts does not run in the namespace: open sockets and start
// processes in fn itself. Do may be nested, and fn may call Current.
//
// If fn calls runtime.Goexit (like testing.T.FailNow), so does Do.
func (n *NS) Do(fn func() error) error {
	return onThread(func() error {
		if err := unix.Setns(n.Fd(), unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("enter network namespace: %w", err)
		}
		return fn()
	})
}

// onThread runs fn, which may change the network namespace of its thread, on a
// goroutine of its own that is locked to a thread. If returning to the first namespace
// fails, the goroutine exits locked, and the runtime destroys the thread, so that no
// other goroutine runs in the wrong namespace.
func onThread(fn func() error) error {
	var err error
	finished := false
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread()
		var home *NS
		if home, err = Current(); err != nil {
			runtime.UnlockOSThread() // nothing was changed yet
			finished = true
			return
		}
		defer func() {
			if unix.Setns(home.Fd(), unix.CLONE_NEWNET) == nil {
				runtime.UnlockOSThread()
			}
			_ = home.Close() // a read-only descriptor
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
