// SPDX-License-Identifier: Apache-2.0

package rules

import (
	"errors"
	"strings"
	"testing"

	"sotto/forwarder/wire"
)

// TestMatchPod: conditions on names, labels and namespaces, also while they are not known.
func TestMatchPod(t *testing.T) {
	s := compile(t,
		Rule{Names: []string{"out.example"}, OptedOut: true, IfKnown: true, Use: "plain"},
		Rule{Names: []string{"name.example"}, Pods: []string{"shop/web-*", "other/x"}, Use: "1"},
		Rule{Names: []string{"label.example"}, PodLabels: []string{"app=web,tier!=db", "app.example/kind == Job"}, Use: "2"},
		Rule{Names: []string{"ns.example"}, Pods: []string{"shop/*"}, NamespaceLabels: []string{"!trusted"}, Use: "3"},
		Rule{Names: []string{"plain.example"}, PodLabels: []string{"app=web"}, IfKnown: true, Use: "4"},
		Rule{Names: []string{"plain.example"}, Use: "5"},
	)
	known := func(name string, labels, namespace map[string]string) *Pod {
		return &Pod{Name: name, LabelsKnown: true, Labels: labels, NamespaceLabels: namespace}
	}
	type m = map[string]string
	for _, c := range []struct {
		name string
		pod  *Pod
		want int
	}{
		{"out.example.", nil, NoRule},
		{"out.example.", &Pod{Name: "shop/web-0"}, NoRule}, // never in plain because of ignorance
		{"out.example.", known("shop/web-0", nil, nil), NoRule},
		{"out.example.", &Pod{LabelsKnown: true, OptedOut: true}, 0},

		{"name.example.", nil, NoRule},
		{"name.example.", &Pod{}, UnknownPod},
		{"name.example.", &Pod{Name: "shop/web-0"}, 1},
		{"name.example.", &Pod{Name: "shop/db-0"}, NoRule},
		{"name.example.", &Pod{Name: "other/x"}, 1},

		{"label.example.", &Pod{Name: "shop/web-0"}, UnknownPod},
		{"label.example.", known("shop/web-0", m{"app": "web"}, nil), 2},
		{"label.example.", known("shop/web-0", m{"app": "web", "tier": "db"}, nil), NoRule},
		{"label.example.", known("shop/web-0", m{"app.example/kind": "Job", "tier": "db"}, nil), 2},
		{"label.example.", known("shop/web-0", nil, m{"app": "web"}), NoRule},

		{"ns.example.", &Pod{}, UnknownPod},
		{"ns.example.", &Pod{Name: "shop/web-0"}, UnknownPod},
		{"ns.example.", &Pod{Name: "bank/web-0"}, NoRule}, // whatever its labels are
		{"ns.example.", known("shop/web-0", nil, nil), 3},
		{"ns.example.", known("shop/web-0", nil, m{"trusted": ""}), NoRule},

		{"plain.example.", &Pod{}, 5},
		{"plain.example.", known("shop/web-0", m{"app": "web"}, nil), 4},
	} {
		if got := s.Match(Query{Name: wireName(t, c.name), Type: wire.TypeA, RD: true, Pod: c.pod}); got != c.want {
			t.Errorf("%s from %+v: %d, want %d", c.name, c.pod, got, c.want)
		}
	}
	if !s.UsesPods() || !s.UsesLabels() || !s.UsesWorkload() {
		t.Error("the set does not say what it needs")
	}
	if s := compile(t, Rule{Pods: []string{"a/*"}}); !s.UsesPods() || s.UsesLabels() {
		t.Error("a name is not a label")
	}
}

func TestPodErrors(t *testing.T) {
	for _, c := range []struct {
		rule Rule
		want string
	}{
		{Rule{Pods: []string{"web-0"}}, `rule 1: pods: "web-0": a pod is written as NAMESPACE/NAME`},
		{Rule{Pods: []string{"a/b/c"}}, `rule 1: pods: "a/b/c": a pod is written as NAMESPACE/NAME`},
		{Rule{Pods: []string{"a/[b]"}}, `rule 1: pods: "a/[b]": character classes`},
		{Rule{PodLabels: []string{""}}, `rule 1: pod labels: "": it is empty`},
		{Rule{PodLabels: []string{"app in (a,b)"}}, `rule 1: pod labels: "app in (a,b)": "in" and "notin" are not supported`},
		{Rule{PodLabels: []string{"a=b,,"}}, `rule 1: pod labels: "a=b,,": "" is not the key of a label`},
		{Rule{PodLabels: []string{"a b"}}, `"a b" is not the key of a label`},
		{Rule{NamespaceLabels: []string{"a/b/c=d"}}, `rule 1: namespace labels: "a/b/c=d": "a/b/c" is not the key`},
		{Rule{NamespaceLabels: []string{"a=" + strings.Repeat("x", 64)}}, "is not the value of a label"},
	} {
		_, err := Compile([]Rule{c.rule})
		var in *Error
		if err == nil || !strings.Contains(err.Error(), c.want) || !errors.As(err, &in) {
			t.Errorf("%+v: %v, want %s", c.rule, err, c.want)
		}
	}
}

func BenchmarkMatchPod(b *testing.B) {
	s := compile(b,
		Rule{OptedOut: true, IfKnown: true},
		Rule{Pods: []string{"shop/web-*"}, PodLabels: []string{"app=web"}, Names: []string{"corp.example"}},
		Rule{PodLabels: []string{"app=db", "app=cache"}, NamespaceLabels: []string{"env=prod"}},
	)
	q := Query{Name: wireName(b, "www.corp.example."), Type: wire.TypeA, RD: true, Workload: "/kubepods/pod1/2",
		Pod: &Pod{Name: "shop/api-0", LabelsKnown: true, Labels: map[string]string{"app": "web", "tier": "front"}, NamespaceLabels: map[string]string{"env": "prod"}}}
	b.ReportAllocs()
	for b.Loop() {
		s.Match(q)
	}
}
