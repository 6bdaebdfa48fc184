// SPDX-License-Identifier: Apache-2.0

package cache

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"
)

// SaveFile writes the cache to the file at path ([Cache.Save]), for its owner's
// eyes only: it tells what was asked. Whatever goes wrong, and whenever the machine
// stops, path holds the old file or the new one, whole. path + ".new" is used on the
// way, and taken away.
func (c *Cache) SaveFile(path string, now time.Time) (err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("save the cache to %s: %w", path, err)
		}
	}()
	next := path + ".new"
	// What a crash left there. A fresh file cannot be somebody's link, and has
	// the permissions that are meant.
	if err := os.Remove(next); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	f, err := os.OpenFile(next, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	// The new content reaches the disk before its name does.
	if err := errors.Join(c.save(f, now), f.Sync(), f.Close()); err != nil {
		return errors.Join(err, os.Remove(next))
	}
	if err := os.Rename(next, path); err != nil {
		return errors.Join(err, os.Remove(next))
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

// LoadFile takes in the file at path ([Cache.Load]). There being none is no
// error: every first start is like that.
func (c *Cache) LoadFile(path string, now time.Time) (n int, err error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("load the cache: %w", err) // which names path
	}
	defer f.Close()
	if n, err = c.load(f, now); err != nil {
		return n, fmt.Errorf("load the cache from %s: %w", path, err)
	}
	return n, nil
}
