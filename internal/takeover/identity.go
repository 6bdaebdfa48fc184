// SPDX-License-Identifier: Apache-2.0

package takeover

import (
	"encoding/json"
	"fmt"
	"os"
	"regexp"
	"slices"
	"sync"
)

// maxReplaced limits the identities that a process remembers.
const maxReplaced = 16

// podCgroup matches the cgroup of a Kubernetes container. Its group is the cgroup of the
// pod, which stays the same when kubelet restarts a container under another ID. The UID of
// a pod is a UUID, with underscores if systemd manages the cgroups, or for a static pod a
// hash.
var podCgroup = sync.OnceValue(func() *regexp.Regexp {
	return regexp.MustCompile(`^(.*[/-]pod[0-9a-f]{8}[-_]?[0-9a-f]{4}[-_]?[0-9a-f]{4}[-_]?[0-9a-f]{4}[-_]?[0-9a-f]{12}(?:\.slice)?)/[^/]*[0-9a-f]{32}`)
})

// Identity returns the identity of a process in the cgroup at path, which starts at the root
// of the hierarchy: the part of the path that stays the same when a supervisor restarts the
// process.
func Identity(path string) string {
	if m := podCgroup().FindStringSubmatch(path); m != nil {
		return m[1]
	}
	return path
}

// Lineage holds the identity of a process and of those that it has replaced, directly or
// through its predecessors. A process refuses to be taken over by a process that it has
// replaced.
//
// This prevents an endless loop: a supervisor restarts a replaced process, because it sees
// an exit or a failing health check. If that process took over from its own successor, whose
// supervisor does the same, the two would replace each other forever, and a stop of the old
// one could open the seal. The identity is therefore one that outlasts a restart: the cgroup
// of the supervisor's unit, container or pod.
type Lineage struct {
	Own      string
	Replaced []string // the most recent one last
}

// Next returns Replaced of a process that takes over from this one.
func (l Lineage) Next() []string {
	var out []string
	for _, id := range slices.Backward(append(slices.Clone(l.Replaced), l.Own)) {
		if id != "" && !slices.Contains(out, id) && len(out) < maxReplaced {
			out = append(out, id)
		}
	}
	slices.Reverse(out)
	return out
}

// Check returns an error if a process with terms t must not take over from this one. It
// accepts a process with the identity of this one: both may have been started by hand.
func (l Lineage) Check(t Terms) error {
	if t.Back || t.Identity == "" || t.Identity == l.Own || !slices.Contains(l.Replaced, t.Identity) {
		return nil
	}
	pid := os.Getpid()
	return fmt.Errorf("process %d has replaced the Sotto in the cgroup %s, which now asks to take over from it: stop process %d first, or take over anyway with --replace=back. "+
		"If a supervisor restarts Sotto after it was replaced, run it with --when-replaced=wait", pid, t.Identity, pid)
}

// parseReplaced reads the identities in a MsgReplaced.
func parseReplaced(data []byte) (ids []string, err error) {
	if err := json.Unmarshal(data, &ids); err != nil {
		return nil, fmt.Errorf("receive the identities of replaced processes: %w", err)
	}
	return ids[max(0, len(ids)-maxReplaced):], nil
}
