// SPDX-License-Identifier: Apache-2.0

package cgroup

import (
	"context"
	"errors"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/fsnotify/fsnotify"
)

// watchInterval is the time between two calls of Watch without a change: inotify may be exhausted
// (fs.inotify.max_user_instances), or have lost events.
const watchInterval = time.Second

// Watch calls changed when one of the cgroups with the directories dirs may have been created or
// removed, and once a second. root is the directory of the hierarchy, which is never removed. Watch
// returns nil when ctx ends. If inotify is not available it calls degraded once.
func Watch(ctx context.Context, root string, dirs []string, changed func(), degraded func(error)) error {
	return watch(ctx, root, dirs, watchInterval, changed, degraded)
}

func watch(ctx context.Context, root string, dirs []string, interval time.Duration, changed func(), degraded func(error)) error {
	w := watcher{root: root, dirs: dirs, ids: make(map[string]uint64)}
	var err error
	if w.Watcher, err = fsnotify.NewWatcher(); err != nil {
		degraded(err)
		w.Watcher = &fsnotify.Watcher{} // without events
	} else {
		defer w.Close()
	}
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for {
		if err == nil {
			if err = w.update(); err != nil {
				degraded(err)
			}
		}
		changed() // after the watches are set, so that nothing is missed in between
		if !w.wait(ctx, tick.C) {
			return nil
		}
	}
}

// watcher watches all directories above dirs. A removed cgroup may end without an event of its
// own (kernfs of Linux 6.18 sends neither IN_DELETE_SELF nor IN_IGNORED), so that only the watch
// of the directory above shows it, and its watch has to be removed here.
type watcher struct {
	*fsnotify.Watcher
	root string
	dirs []string
	ids  map[string]uint64 // of the cgroups that are watched
}

// update watches the directories that are new. It returns an error if one cannot be watched.
func (w *watcher) update() error {
	var errs []error
	for _, dir := range w.dirs {
		for dir != w.root && dir != filepath.Dir(dir) {
			dir = filepath.Dir(dir)
			errs = append(errs, w.add(dir))
		}
	}
	return errors.Join(errs...)
}

func (w *watcher) add(dir string) error {
	id, err := ID(dir)
	if err == nil && w.ids[dir] == id {
		return nil
	}
	w.remove(dir)
	if err == nil {
		err = w.Add(dir)
	}
	if errors.Is(err, fs.ErrNotExist) {
		return nil // the directory above is watched
	}
	if err == nil {
		w.ids[dir] = id
	}
	return err
}

func (w *watcher) remove(dir string) {
	if _, ok := w.ids[dir]; ok {
		_ = w.Remove(dir) // it may have ended by itself
		delete(w.ids, dir)
	}
}

// wait waits for an event that concerns one of dirs or a directory above it, or for the tick. It
// reports false when ctx ends.
func (w *watcher) wait(ctx context.Context, tick <-chan time.Time) bool {
	for {
		select {
		case <-ctx.Done():
			return false
		case <-tick:
			return true
		case <-w.Errors: // events were lost
			return true
		case e := <-w.Events:
			concerned := slices.ContainsFunc(w.dirs, func(dir string) bool { return dir == e.Name || strings.HasPrefix(dir, e.Name+"/") })
			if concerned && (e.Has(fsnotify.Create) || e.Has(fsnotify.Remove)) {
				return true
			}
		}
	}
}

// Present returns those of the cgroups with the directories dirs that exist.
func Present(dirs []string) ([]Group, error) {
	var out []Group
	for _, dir := range dirs {
		id, err := ID(dir)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		out = append(out, Group{filepath.Clean(dir), id})
	}
	return out, nil
}
