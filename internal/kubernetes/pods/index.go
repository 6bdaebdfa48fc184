// SPDX-License-Identifier: Apache-2.0

package pods

import (
	"context"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"sotto/forwarder/rules"
	"sotto/internal/kubernetes/podfile"
	"sotto/internal/names"
)

const (
	// interval is how often an Index looks for changes. A pod takes longer to start.
	interval = 200 * time.Millisecond

	// settled is the age from which the modification time of a directory or file shows that it
	// has not changed since it was read. Times of file systems are coarser than the clock.
	settled = time.Second

	// rescan is how often both are read even if they do not seem to have changed.
	rescan = 10 * time.Second

	// staleAfter is four times as long as sotto-kubernetes takes to write the file again.
	staleAfter = 2 * time.Minute

	// maxPaths limits the cgroup paths whose pods are kept. It is above the number of containers
	// of a node.
	maxPaths = 8192
)

// OptOut is whose annotations exempt a pod from the seal.
type OptOut string

const (
	OptOutOff        OptOut = "off"        // no pod is exempt
	OptOutNamespaces OptOut = "namespaces" // those of namespaces, which only an administrator can set
	OptOutPods       OptOut = "pods"       // those of pods as well, which everyone can set who creates pods
)

// Settings are what an [Index] has to know. A reload may change them.
type Settings struct {
	Enabled    bool   // a rule depends on pods
	File       string // written by sotto-kubernetes; "": labels are never known
	CgroupRoot string // cgroup above "kubepods", such as "/kubelet"
	OptOut     OptOut
}

// Index finds the pods of workloads. [Index.Pod] is safe for concurrent use.
type Index struct {
	root string
	log  *slog.Logger

	mu       sync.Mutex
	settings Settings
	logs     source
	file     source
	names    map[string]string // of pods, by UID
	content  podfile.File
	stale    bool // a warning was logged

	state   atomic.Pointer[state]
	enabled chan struct{} // receives when Configure has enabled the index
}

// state is what Pod uses. The pods do not change; paths are added.
type state struct {
	cgroupRoot string
	pods       map[string]*rules.Pod // by UID
	paths      *paths
}

// paths are the UIDs of pods by cgroup path, "" for a path of no pod.
type paths struct {
	uids  sync.Map
	count atomic.Int64
}

// New returns an index that looks below the directory root, "" for the system's.
func New(root string, log *slog.Logger) *Index {
	if root == "" {
		root = "/"
	}
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return &Index{root: root, log: log, enabled: make(chan struct{}, 1), logs: source{path: filepath.Join(root, "var/log/pods")}}
}

// unknown is a pod of which nothing is known.
var unknown = &rules.Pod{}

// Pod returns the pod of a workload with that cgroup path, or nil if it is not in a pod. A pod
// that is not known has no name and no known labels.
func (x *Index) Pod(path string) *rules.Pod {
	s := x.state.Load()
	if s == nil || path == "" {
		return nil
	}
	uid := s.uid(path)
	if uid == "" {
		return nil
	}
	if p := s.pods[uid]; p != nil {
		return p
	}
	return unknown
}

// uid returns the UID of the pod of a cgroup path, or "".
func (s *state) uid(path string) string {
	if uid, ok := s.paths.uids.Load(path); ok {
		return uid.(string)
	}
	rest := path
	if root := strings.Trim(s.cgroupRoot, "/"); root != "" {
		if below, ok := strings.CutPrefix(strings.TrimPrefix(path, "/"), root+"/"); ok {
			rest = below
		}
	}
	uid := ""
	if c := names.Parse(rest); c.Kind == names.Pod {
		uid = c.Pod
	}
	if s.paths.count.Add(1) > maxPaths {
		s.paths.uids.Clear()
		s.paths.count.Store(1)
	}
	s.paths.uids.Store(path, uid)
	return uid
}

// Configure changes the settings, and reads what they name before it returns.
func (x *Index) Configure(s Settings) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.settings = s
	x.file = source{}
	if s.File != "" {
		x.file.path = filepath.Join(x.root, s.File)
	}
	x.content, x.stale = podfile.File{}, false
	if !s.Enabled {
		x.state.Store(nil)
		return
	}
	x.logs.read = time.Time{}
	x.refresh(time.Now())
	x.publish(&paths{}) // the cgroup root may have changed
	select {
	case x.enabled <- struct{}{}:
	default:
	}
}

// Run looks for changes until ctx ends. It does not wake up while no rule depends on pods.
func (x *Index) Run(ctx context.Context) error {
	t := time.NewTicker(interval)
	t.Stop()
	defer t.Stop()
	for {
		select {
		case <-x.enabled:
			t.Reset(interval)
		case now := <-t.C:
			if !x.tick(now) {
				t.Stop()
			}
		case <-ctx.Done():
			return nil
		}
	}
}

// tick looks for changes once. It reports false if the index is not enabled.
func (x *Index) tick(now time.Time) bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.settings.Enabled && x.refresh(now) {
		x.publish(x.state.Load().paths)
	}
	return x.settings.Enabled
}

// refresh reads what may have changed, and reports whether it has read anything. x.mu is held.
func (x *Index) refresh(now time.Time) (changed bool) {
	if x.logs.due(now) {
		all, err := names.PodNames(x.root)
		if err != nil {
			x.logs.warn(x.log, "the names of pods are unknown, and queries that a rule for pods may match fail: in a container mount this directory", err)
		}
		x.names, changed = all, true
	}
	if x.file.path != "" && x.file.due(now) {
		content, err := podfile.Read(x.file.path)
		if err != nil {
			content = podfile.File{}
			x.file.warn(x.log, "the labels of pods are unknown, and queries that a rule for labels may match fail: check sotto-kubernetes", err)
		}
		x.content, changed = content, true
	}
	x.checkAge(now)
	return changed
}

// checkAge warns if sotto-kubernetes has stopped. What it has written stays valid.
func (x *Index) checkAge(now time.Time) {
	old := !x.file.modified.IsZero() && now.Sub(x.file.modified) > staleAfter
	if old && !x.stale {
		x.log.Warn("the labels of pods are not updated: check sotto-kubernetes", "file", x.file.path, "updated", x.file.modified)
	}
	x.stale = old
}

// publish makes the pods visible to Pod. The kubelet knows best which pod has a UID: labels of a
// pod with another name are not used. x.mu is held.
func (x *Index) publish(p *paths) {
	all := make(map[string]*rules.Pod, len(x.names))
	for uid, name := range x.names {
		all[uid] = &rules.Pod{Name: name}
	}
	for _, p := range x.content.Pods {
		pod := &rules.Pod{Name: p.Namespace + "/" + p.Name, Labels: p.Labels}
		if name := x.names[p.UID]; name != "" && name != pod.Name {
			continue
		}
		if ns, ok := x.content.Namespaces[p.Namespace]; ok {
			pod.LabelsKnown, pod.NamespaceLabels = true, ns.Labels
			pod.OptedOut = x.settings.OptOut.exempts(p.Seal, ns.Seal)
		}
		all[p.UID] = pod
	}
	x.state.Store(&state{cgroupRoot: x.settings.CgroupRoot, pods: all, paths: p})
}

// exempts reports whether the annotations of a pod and its namespace exempt the pod. Any value but
// "off" seals it.
func (o OptOut) exempts(pod, namespace string) bool {
	switch {
	case o == OptOutPods && pod == podfile.SealOff:
		return true
	case pod != "" && pod != podfile.SealOff:
		return false
	}
	return (o == OptOutPods || o == OptOutNamespaces) && namespace == podfile.SealOff
}

// source is a file or directory that is read when it has changed.
type source struct {
	path     string
	read     time.Time // last time; zero: never
	modified time.Time // then; zero: it did not exist
	id       fs.FileInfo
	warned   string // the last error that was logged
}

// due reports whether the source has to be read now.
func (s *source) due(now time.Time) bool {
	var modified time.Time
	info, err := os.Stat(s.path)
	if err == nil {
		modified = info.ModTime()
	}
	changed := !modified.Equal(s.modified) || (s.id == nil) != (info == nil) || info != nil && !os.SameFile(info, s.id)
	s.modified, s.id = modified, info
	if !changed && now.Sub(modified) > settled && s.read.Sub(modified) > settled && now.Sub(s.read) < rescan {
		return false
	}
	s.read = now
	return true
}

// warn logs an error once until there is another one.
func (s *source) warn(log *slog.Logger, what string, err error) {
	if text := err.Error(); text != s.warned {
		s.warned = text
		log.Warn(what, "file", s.path, "err", err)
	}
}
