// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"fmt"
	"os"
	"time"
)

// loadCache fills the cache from the cache file, except for answers that depend on the network, which
// may be another one now. An error is only logged, because Sotto also works with an empty cache.
func (d *daemon) loadCache() {
	file := d.current().CacheFile
	if file == "" || d.resolver.cache == nil {
		return
	}
	n, err := d.resolver.cache.LoadFile(file, time.Now())
	n -= d.resolver.flushNetwork()
	switch {
	case err != nil:
		d.log.Warn("cannot read cache-file, so the cache starts empty or incomplete: remove the file, or set cache-file to another one; a clean stop writes it again", "file", file, "err", err)
	case n > 0:
		d.log.Info("cache restored", "file", file, "answers", n)
	}
}

// saveCache writes the cache file for the next start.
func (d *daemon) saveCache() {
	file := d.current().CacheFile
	if file == "" || d.resolver.cache == nil {
		return
	}
	if err := d.resolver.cache.SaveFile(file, time.Now()); err != nil {
		d.log.Warn(fmt.Sprintf("cannot write cache-file, so the cache is empty after the next start: let user %d write the file and its directory, or set cache-file to another one", os.Getuid()), "file", file, "err", err)
	}
}
