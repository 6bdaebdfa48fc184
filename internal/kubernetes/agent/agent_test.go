// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"reflect"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/cache"

	"sotto/internal/kubernetes/podfile"
)

const static = "0123456789abcdef0123456789abcdef"

// object returns an object after reduce.
func object(t *testing.T, namespace, name, uid string, labels map[string]string, annotations ...string) *metav1.PartialObjectMetadata {
	t.Helper()
	o := &metav1.PartialObjectMetadata{ObjectMeta: metav1.ObjectMeta{
		Namespace: namespace, Name: name, UID: types.UID(uid), Labels: labels, ResourceVersion: "7",
		Annotations: map[string]string{"other": "x"}, ManagedFields: []metav1.ManagedFieldsEntry{{Manager: "m"}},
	}}
	for i := 0; i < len(annotations); i += 2 {
		o.Annotations[annotations[i]] = annotations[i+1]
	}
	small, err := reduce(o)
	if err != nil {
		t.Fatal(err)
	}
	got, ok := small.(*metav1.PartialObjectMetadata)
	if !ok || got.ManagedFields != nil || got.Annotations["other"] != "" || got.ResourceVersion != "7" {
		t.Errorf("%+v", small)
	}
	return got
}

func TestContent(t *testing.T) {
	web := map[string]string{"app": "web"}
	got := Content("n1", []*metav1.PartialObjectMetadata{
		object(t, "one", "b", "22", web, podfile.SealAnnotation, "off"),
		object(t, "one", "a", "11", nil),
		object(t, "kube-system", "etcd-n1", "33", nil, mirror, static, configHash, static),
		// Claims to be a pod with another UID, which only a static pod can.
		object(t, "two", "forged", "44", web, mirror, "x", configHash, "11"),
		// Claims to be a static pod. Which one it is cannot be known.
		object(t, "two", "x", "55", nil, mirror, "x", configHash, strings.Repeat("f", 32)),
		object(t, "two", "y", "66", nil, mirror, "x", configHash, strings.Repeat("f", 32)),
	}, []*metav1.PartialObjectMetadata{
		object(t, "", "one", "n1", map[string]string{"team": "a"}, podfile.SealAnnotation, "off"),
		object(t, "", "two", "n2", nil),
		object(t, "", "empty", "n3", nil),
		object(t, "", "kube-system", "n4", nil),
	})
	want := podfile.File{
		Node: "n1",
		Namespaces: map[string]podfile.Namespace{
			"one": {Labels: map[string]string{"team": "a"}, Seal: "off"}, "two": {}, "kube-system": {},
		},
		Pods: []podfile.Pod{
			{UID: static, Namespace: "kube-system", Name: "etcd-n1"},
			{UID: "11", Namespace: "one", Name: "a"},
			{UID: "22", Namespace: "one", Name: "b", Labels: web, Seal: "off"},
			{UID: "44", Namespace: "two", Name: "forged", Labels: web},
		},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("%+v\nwant %+v", got, want)
	}
	if empty := Content("n1", nil, nil); empty.Pods == nil || len(empty.Pods) != 0 {
		t.Errorf("%+v", empty)
	}
}

// TestReduceUnknown: what a deleted object was may not be known.
func TestReduceUnknown(t *testing.T) {
	removed := cache.DeletedFinalStateUnknown{Key: "one/a"}
	if got, err := reduce(removed); err != nil || got != any(removed) {
		t.Errorf("%v, %v", got, err)
	}
}
