// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"regexp"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"

	"sotto/internal/kubernetes/podfile"
)

const (
	// collect is how long changes are collected before the file is written.
	collect = 50 * time.Millisecond

	// repeat is how often the file is written without a change, which shows that it is up to date.
	repeat = 30 * time.Second
)

// Config says what to watch.
type Config struct {
	API  *rest.Config
	Node string // name of the node
	File string // absolute path of the file to write
	Log  *slog.Logger
}

// agent is the state of Run.
type agent struct {
	Config
	pods, namespaces cache.SharedIndexInformer
	changed          chan struct{}
}

// Run watches and writes until ctx ends. It retries forever if the API server does not answer: what
// was written stays valid. It fails if the file cannot be written.
func Run(ctx context.Context, cfg Config) error {
	client, err := metadata.NewForConfig(cfg.API)
	if err != nil {
		return fmt.Errorf("connect to the API server: %w", err)
	}
	a := &agent{Config: cfg, changed: make(chan struct{}, 1)}
	ofNode := fields.OneTermEqualSelector("spec.nodeName", cfg.Node).String()
	if a.pods, err = a.informer(client, "pods", ofNode); err != nil {
		return err
	}
	if a.namespaces, err = a.informer(client, "namespaces", ""); err != nil {
		return err
	}
	g, ctx := errgroup.WithContext(ctx)
	for _, inf := range []cache.SharedIndexInformer{a.pods, a.namespaces} {
		g.Go(func() error {
			inf.RunWithContext(ctx)
			return nil
		})
	}
	g.Go(func() error { return a.write(ctx) })
	return g.Wait()
}

// informer returns an informer for the metadata of a resource.
func (a *agent) informer(client metadata.Interface, resource, selector string) (cache.SharedIndexInformer, error) {
	r := client.Resource(schema.GroupVersionResource{Version: "v1", Resource: resource})
	inf := cache.NewSharedIndexInformer(cache.ToListWatcherWithWatchListSemantics(&cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
			o.FieldSelector = selector
			return r.List(ctx, o)
		},
		WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
			o.FieldSelector = selector
			return r.Watch(ctx, o)
		},
	}, client), &metav1.PartialObjectMetadata{}, 0, nil)
	err := errors.Join(
		inf.SetTransform(reduce),
		inf.SetWatchErrorHandlerWithContext(func(ctx context.Context, _ *cache.Reflector, err error) {
			if ctx.Err() == nil {
				a.Log.Warn("cannot watch "+resource+": the file is not updated; trying again", "err", err)
			}
		}),
	)
	if err != nil {
		return nil, err
	}
	_, err = inf.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    func(any) { a.change() },
		UpdateFunc: func(any, any) { a.change() },
		DeleteFunc: func(any) { a.change() },
	})
	return inf, err
}

// Annotations of static pods at the API server: the cgroup's UID is that of the file on the node.
const (
	mirror     = "kubernetes.io/config.mirror"
	configHash = "kubernetes.io/config.hash"
)

// staticUID is the form of the UIDs of static pods. Other pods have UIDs with dashes, so that none
// can claim to be one of them.
var staticUID = regexp.MustCompile(`^[0-9a-f]{32}$`)

// reduce removes what is not used, such as the list of managed fields, before an object is stored.
func reduce(o any) (any, error) {
	m, ok := o.(*metav1.PartialObjectMetadata)
	if !ok {
		return o, nil // what a deleted object was is not known
	}
	small := &metav1.PartialObjectMetadata{TypeMeta: m.TypeMeta}
	small.Namespace, small.Name, small.UID, small.ResourceVersion, small.Labels = m.Namespace, m.Name, m.UID, m.ResourceVersion, m.Labels
	for _, key := range []string{podfile.SealAnnotation, mirror, configHash} {
		if v, ok := m.Annotations[key]; ok {
			metav1.SetMetaDataAnnotation(&small.ObjectMeta, key, v)
		}
	}
	return small, nil
}

func (a *agent) change() {
	select {
	case a.changed <- struct{}{}:
	default:
	}
}

// write writes the file at each change, and from time to time.
func (a *agent) write(ctx context.Context) error {
	if !cache.WaitForCacheSync(ctx.Done(), a.pods.HasSynced, a.namespaces.HasSynced) {
		return nil // ctx has ended
	}
	for first := true; ; first = false {
		f := Content(a.Node, objects(a.pods), objects(a.namespaces))
		if err := podfile.Write(a.File, f); err != nil {
			return fmt.Errorf("write the labels of pods: %s: %w", a.File, err)
		}
		if first {
			a.Log.Info("writing the labels of pods", "file", a.File, "node", a.Node, "pods", len(f.Pods), "namespaces", len(f.Namespaces))
		}
		select {
		case <-a.changed:
		case <-time.After(repeat):
		case <-ctx.Done():
			return nil
		}
		select {
		case <-time.After(collect):
		case <-ctx.Done():
			return nil
		}
	}
}

func objects(inf cache.SharedIndexInformer) (all []*metav1.PartialObjectMetadata) {
	for _, o := range inf.GetStore().List() {
		if m, ok := o.(*metav1.PartialObjectMetadata); ok {
			all = append(all, m)
		}
	}
	return all
}

// Content returns the content of the file. It is pure. Only namespaces with pods are in it. If two
// pods claim the same UID, neither is.
func Content(node string, pods, namespaces []*metav1.PartialObjectMetadata) podfile.File {
	f := podfile.File{Node: node, Namespaces: map[string]podfile.Namespace{}, Pods: []podfile.Pod{}}
	byUID := map[string]podfile.Pod{}
	claims := map[string]int{}
	used := map[string]bool{}
	for _, p := range pods {
		uid := string(p.UID)
		if _, ok := p.Annotations[mirror]; ok && staticUID.MatchString(p.Annotations[configHash]) {
			uid = p.Annotations[configHash]
		}
		claims[uid]++
		used[p.Namespace] = true
		byUID[uid] = podfile.Pod{UID: uid, Namespace: p.Namespace, Name: p.Name, Labels: p.Labels, Seal: p.Annotations[podfile.SealAnnotation]}
	}
	maps.DeleteFunc(byUID, func(uid string, _ podfile.Pod) bool { return claims[uid] > 1 })
	f.Pods = slices.AppendSeq(f.Pods, maps.Values(byUID))
	slices.SortFunc(f.Pods, func(x, y podfile.Pod) int { return strings.Compare(x.UID, y.UID) })
	for _, n := range namespaces {
		if used[n.Name] {
			f.Namespaces[n.Name] = podfile.Namespace{Labels: n.Labels, Seal: n.Annotations[podfile.SealAnnotation]}
		}
	}
	return f
}
