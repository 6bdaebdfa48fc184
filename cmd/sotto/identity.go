// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"

	"sotto/intercept/cgroup"
)

// A supervisor starts a replaced process again: it sees an exit, or a health check that
// fails. If that one took over from its own successor, whose supervisor does the same, the
// two would take over from each other for ever, and whichever is stopped as the old one
// may hold the seal at that moment. So a process refuses those that it has replaced, which
// it knows by an identity that outlasts a restart: the cgroup of the supervisor's unit,
// container or pod.

// maxReplaced bounds the identities that a process remembers.
const maxReplaced = 16

// podCgroup is the cgroup of a container of Kubernetes, up to that of its pod: a container
// that kubelet restarts has another ID in the same pod. The UID of a pod is a UUID, with
// underscores where systemd keeps the cgroups, or for a static pod a hash.
var podCgroup = regexp.MustCompile(`^(.*[/-]pod[0-9a-f]{8}[-_]?[0-9a-f]{4}[-_]?[0-9a-f]{4}[-_]?[0-9a-f]{4}[-_]?[0-9a-f]{12}(?:\.slice)?)/[^/]*[0-9a-f]{32}`)

// ownIdentity returns the calling process's identity.
func ownIdentity() (string, error) {
	root, err := cgroup.Root()
	if err != nil {
		return "", err
	}
	own, err := cgroup.Own()
	if err != nil {
		return "", err
	}
	return identityOf("/" + strings.TrimPrefix(strings.TrimPrefix(own, root), "/")), nil
}

// identityOf returns what stays the same of a cgroup's path when its supervisor starts the
// process in it again.
func identityOf(path string) string {
	if m := podCgroup.FindStringSubmatch(path); m != nil {
		return m[1]
	}
	return path
}

// lineage is who a process is, and whom it has replaced.
type lineage struct {
	own      string
	replaced []string // the latest last
}

// next is what a process that replaces this one has replaced.
func (l lineage) next() []string {
	var out []string
	for _, id := range slices.Backward(append(slices.Clone(l.replaced), l.own)) {
		if id != "" && !slices.Contains(out, id) && len(out) < maxReplaced {
			out = append(out, id)
		}
	}
	slices.Reverse(out)
	return out
}

// refuse says why a process on terms t may not take over from this one. An identity that
// both have does not distinguish them: they may have been started by hand.
func (l lineage) refuse(t terms) error {
	if t.Back || t.Identity == "" || t.Identity == l.own || !slices.Contains(l.replaced, t.Identity) {
		return nil
	}
	pid := os.Getpid()
	return fmt.Errorf("process %d has replaced the Sotto in the cgroup %s, which now asks to take over from it: stop process %d first, or take over all the same with --replace=back. "+
		"Where a supervisor starts a replaced Sotto again, run it with --when-replaced=wait", pid, t.Identity, pid)
}

// decodeReplaced reads the identities that another process reports.
func decodeReplaced(data []byte) (ids []string, err error) {
	if err := json.Unmarshal(data, &ids); err != nil {
		return nil, fmt.Errorf("receive the identities of replaced processes: %w", err)
	}
	return ids[max(0, len(ids)-maxReplaced):], nil
}
