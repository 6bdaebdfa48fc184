// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"os"
	"time"
)

// restore fills the cache with what an earlier Sotto kept. Whatever is wrong with
// that, the cache only has to be learnt again: no reason not to start.
func (st *steering) restore() {
	file := st.current().cacheFile
	if file == "" || st.r.cache == nil {
		return
	}
	switch n, err := st.r.cache.LoadFile(file, time.Now()); {
	case err != nil:
		st.log.Warn("cannot read cache-file, so the cache starts empty or in part; remove that file or set cache-file to another: a clean stop writes it anew", "file", file, "err", err)
	case n > 0:
		st.log.Info("cache restored", "file", file, "answers", n)
	}
}

// keep writes the cache for the next start, when nobody asks any more.
func (st *steering) keep() {
	file := st.current().cacheFile
	if file == "" || st.r.cache == nil {
		return
	}
	if err := st.r.cache.SaveFile(file, time.Now()); err != nil {
		st.log.Warn(fmt.Sprintf("cannot write cache-file, so the next start finds no cache; see that user %d may write it and its directory, or set cache-file to another", os.Getuid()), "file", file, "err", err)
	}
}
