// SPDX-License-Identifier: Apache-2.0

package intercept

import (
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	"sotto/intercept/registry"
)

// reclaimTimeout is how long Reclaim waits for the successor's exit. The kernel may still be
// closing the files of a process that was killed.
const reclaimTimeout = 10 * time.Second

// ErrOwned is returned if another process owns the instance. The error of [Open] names that
// process.
var ErrOwned = registry.ErrOwned

// Release lets another process, the successor, open the instance. Run must have returned.
// Origin, Workload and Control still work, and everything in the kernel stays, but nothing
// is repaired or collected until the successor does so, or this process calls Reclaim. From
// now on Detach does nothing, and Close only releases what the process holds.
func (i *Instance) Release() error {
	i.mu.Lock()
	defer i.mu.Unlock()
	switch {
	case i.closed || !i.attached:
		return errors.New("release: the instance is not attached")
	case i.released:
		return errors.New("release: another process is taking over already")
	case i.cfg.Ephemeral:
		return errors.New("release: the instance belongs to its command")
	}
	if i.hits.table != nil {
		i.CountHits()
		i.hits.table.Stop()
	}
	err := i.file.Close() // which unlocks it
	i.file, i.released = nil, true
	return err
}

// Reclaim takes over a released instance again, from a successor that failed. It replaces the
// successor's programs and pins. If the successor does not exit within ten seconds the error is
// [ErrOwned] and nothing has changed: it may wait longer for replies to the queries that it has
// read, so the caller tries again.
func (i *Instance) Reclaim() (err error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.closed || !i.released {
		return errors.New("reclaim: the instance was not released")
	}
	for end := time.Now().Add(reclaimTimeout); ; time.Sleep(10 * time.Millisecond) {
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
	i.released = false
	i.updateGroups() // the successor may have sealed cgroups that were created meanwhile
	i.ensureNAT()
	if err := errors.Join(i.network.Ensure(), i.kernel.pinMaps(nil), i.pinHits(), i.resetExclusions()); err != nil {
		return err
	}
	// The successor has written its own cgroups into the guard's map.
	if err := errors.Join(i.guard.Seal(i.groups, i.paths.Root()), i.guard.Reattach()); err != nil {
		return err
	}
	if err := i.sealPresent(); err != nil {
		return err
	}
	i.startHits()
	return i.rewriteRecord()
}

func (i *Instance) reclaimRecord() error {
	reg, err := registry.Open(i.cfg.RunDir)
	if err != nil {
		return err
	}
	rec := newRecord(&i.cfg, i.groups)
	rec.Earlier = i.earlier
	f, err := reg.Claim(rec)
	if err = errors.Join(err, reg.Release()); err != nil {
		return err
	}
	i.file = f
	return nil
}

// Heartbeat writes a heartbeat, by which the hooks and the guard know that the process is
// alive. Run writes them, too; this is for the time after Release, until the successor does.
func (i *Instance) Heartbeat() error { return i.guard.Heartbeat() }
