// SPDX-License-Identifier: Apache-2.0

package status

import "time"

// Duration rounds a time for people: 3d4h, 2h5m, 4m10s, 7s.
func Duration(d time.Duration) string { return duration(d) }

// Size rounds a number of bytes for people, with its unit.
func Size(bytes int64) string { return size(bytes) }

// Notes are what is unusual about the server at the time now, for people.
func (s *Server) Notes(now time.Time) []string { return s.notes(now) }
