// SPDX-License-Identifier: Apache-2.0

package intercept

import (
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

// reclaimTime is more than a process takes to end.
const reclaimTime = 5 * time.Second

// ErrOwned says that another process has the instance. [Open] returns it too, and names
// that process.
var ErrOwned = errors.New("another process has the instance")

// Yield lets another process open the instance. This one goes on answering: Origin,
// Workload and Control work as before, and what the kernel holds stays; but Run must have
// returned, and nothing is repaired or collected until that process does so, or Reclaim.
// Detach does nothing from here on, and Close lets go and takes nothing away.
func (i *Instance) Yield() error {
	i.mu.Lock()
	defer i.mu.Unlock()
	switch {
	case i.closed || !i.attached:
		return errors.New("yield: the instance is not attached")
	case i.yielded:
		return errors.New("yield: another process is taking over already")
	case i.cfg.Ephemeral:
		return errors.New("yield: the instance goes with its command")
	}
	err := i.file.Close() // and with it the lock
	i.file, i.yielded = nil, true
	return err
}

// Reclaim takes back what was yielded, from a process that did not take over: its
// programs and pins are replaced by this one's. While that process lives it has the
// instance, after a few seconds' wait the error is [ErrOwned], and nothing has changed.
func (i *Instance) Reclaim() (err error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.closed || !i.yielded {
		return errors.New("reclaim: the instance was not yielded")
	}
	// The kernel may just be closing what that process had open.
	for end := time.Now().Add(reclaimTime); ; time.Sleep(10 * time.Millisecond) {
		if err = i.reclaimRecord(); !errors.Is(err, unix.EWOULDBLOCK) || time.Now().After(end) {
			break
		}
	}
	if errors.Is(err, unix.EWOULDBLOCK) {
		return fmt.Errorf("reclaim: %w", ErrOwned)
	}
	if err != nil {
		return err
	}
	i.yielded = false
	i.ensureNAT()
	if err := errors.Join(i.network.ensure(), i.kernel.pinMaps(nil), i.resetExclusion()); err != nil {
		return err
	}
	i.guard.links.lose()
	if err := i.guard.attach(); err != nil {
		return err
	}
	return i.kernel.attach(i.groups, i.cfg.Guard != GuardOff)
}

func (i *Instance) reclaimRecord() error {
	reg, err := openRegistry(i.cfg.RunDir)
	if err != nil {
		return err
	}
	f, err := reg.claim(newRecord(&i.cfg, i.groups))
	if err = errors.Join(err, reg.release()); err != nil {
		return err
	}
	i.file = f
	return nil
}

// Alive gives a sign of life, which Run does otherwise: for who has yielded, while
// nobody else does.
func (i *Instance) Alive() error {
	i.guard.mu.Lock()
	defer i.guard.mu.Unlock()
	return i.guard.tell()
}
