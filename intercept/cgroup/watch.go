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
	w, err := fsnotify.NewWatcher()
	if err != nil {
		degraded(err)
		w = &fsnotify.Watcher{} // without events
	} else {
		defer w.Close()
	}
	tick := time.NewTicker(watchInterval)
	defer tick.Stop()
	for {
		if err == nil {
			for _, dir := range dirs {
				watchParent(w, root, dir)
			}
		}
		changed() // after the watches are set, so that nothing is missed in between
		if !waitForChange(ctx, w, tick.C, dirs) {
			return nil
		}
	}
}

// waitForChange waits for an event that concerns one of dirs or a directory above it, or for the
// tick. It reports false when ctx ends.
func waitForChange(ctx context.Context, w *fsnotify.Watcher, tick <-chan time.Time, dirs []string) bool {
	for {
		select {
		case <-ctx.Done():
			return false
		case <-tick:
			return true
		case <-w.Errors: // events were lost
			return true
		case e := <-w.Events:
			concerned := slices.ContainsFunc(dirs, func(dir string) bool { return dir == e.Name || strings.HasPrefix(dir, e.Name+"/") })
			if concerned && (e.Has(fsnotify.Create) || e.Has(fsnotify.Remove)) {
				return true
			}
		}
	}
}

// watchParent watches the deepest existing directory above dir.
func watchParent(w *fsnotify.Watcher, root, dir string) {
	for dir != root && dir != filepath.Dir(dir) {
		dir = filepath.Dir(dir)
		if err := w.Add(dir); !errors.Is(err, fs.ErrNotExist) {
			return
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
