// SPDX-License-Identifier: Apache-2.0

package takeover

import (
	"fmt"
	"slices"
	"strings"
	"testing"
)

// TestIdentity: the part of a cgroup's path that outlasts a restart by a supervisor.
func TestIdentity(t *testing.T) {
	const (
		uuid  = "0f6a4e1c-53b1-4b7e-9d53-6f3c0b7ad7ae"
		under = "0f6a4e1c_53b1_4b7e_9d53_6f3c0b7ad7ae"
	)
	static, id := strings.Repeat("0123456789abcdef", 2), strings.Repeat("0123456789abcdef", 4)
	for path, want := range map[string]string{
		"/":                                     "/",
		"/system.slice/sotto.service":           "/system.slice/sotto.service",
		"/system.slice/docker-" + id + ".scope": "/system.slice/docker-" + id + ".scope",
		"/docker/" + id:                         "/docker/" + id,
		"/libpod_parent/libpod-" + id:           "/libpod_parent/libpod-" + id,
		"/machine.slice/libpod-" + id + ".scope/container":                "/machine.slice/libpod-" + id + ".scope/container",
		"/kubepods/besteffort/pod" + uuid:                                 "/kubepods/besteffort/pod" + uuid,
		"/kubepods/besteffort/pod" + uuid + "/" + id:                      "/kubepods/besteffort/pod" + uuid,
		"/kubepods/besteffort/pod" + uuid + "/crio-" + id:                 "/kubepods/besteffort/pod" + uuid,
		"/kubepods/besteffort/pod" + uuid + "/" + id + "/init.scope":      "/kubepods/besteffort/pod" + uuid,
		"/kubepods/pod" + static + "/" + id:                               "/kubepods/pod" + static,
		"/kubepods/pod" + static:                                          "/kubepods/pod" + static,
		"/docker/" + id + "/kubelet/kubepods/burstable/pod" + uuid + "/x": "/docker/" + id + "/kubelet/kubepods/burstable/pod" + uuid + "/x",
		"/docker/" + id + "/kubelet/kubepods/pod" + uuid + "/" + id:       "/docker/" + id + "/kubelet/kubepods/pod" + uuid,
		"/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod" + under + ".slice/cri-containerd-" + id + ".scope": "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod" + under + ".slice",
	} {
		if got := Identity(path); got != want {
			t.Errorf("%s is %s, want %s", path, got, want)
		}
	}
	// A container that kubelet restarts, and another pod.
	container := func(pod, id string) string { return Identity("/kubepods/pod" + pod + "/" + id) }
	if container(uuid, id) != container(uuid, static+static[1:]+"0") || container(uuid, id) == container(static, id) {
		t.Error("a restarted container has another identity, or another pod the same one")
	}
}

// TestLineage: the identities that are refused along a chain of takeovers.
func TestLineage(t *testing.T) {
	refused := func(l Lineage, id string) bool { return l.Check(Terms{Identity: id}) != nil }
	a := Lineage{Own: "/a"}
	b := Lineage{"/b", a.Next()}
	c := Lineage{"/c", b.Next()}
	if !refused(b, "/a") || !refused(c, "/a") || !refused(c, "/b") {
		t.Errorf("a replaced process is accepted by %v or %v", b, c)
	}
	if refused(a, "/b") || refused(b, "/c") || refused(b, "/b") || refused(c, "") {
		t.Errorf("another process is refused by %v, %v or %v", a, b, c)
	}
	if err := c.Check(Terms{Identity: "/a", Back: true}); err != nil {
		t.Errorf("with Back: %v", err)
	}
	back := Lineage{"/a", c.Next()}
	if refused(back, "/a") || !refused(back, "/b") || !refused(back, "/c") {
		t.Errorf("back again: %v", back)
	}
	if next := back.Next(); !slices.Equal(next, []string{"/b", "/c", "/a"}) {
		t.Errorf("then %v", next)
	}
	// Processes without an identity are not remembered.
	if next := (Lineage{"", b.Next()}).Next(); !slices.Equal(next, []string{"/a", "/b"}) {
		t.Errorf("after one without an identity: %v", next)
	}
	for n := range 3 * maxReplaced {
		c = Lineage{fmt.Sprintf("/n%d", n), c.Next()}
	}
	if got := c.Next(); len(got) != maxReplaced || got[0] != "/n32" || got[maxReplaced-1] != "/n47" {
		t.Errorf("want the most recent ones: %v", got)
	}
	if ids, err := parseReplaced([]byte(`["` + strings.Repeat(`x","`, 40) + `y"]`)); err != nil || len(ids) != maxReplaced || ids[maxReplaced-1] != "y" {
		t.Errorf("received %v, %v", ids, err)
	}
	if _, err := parseReplaced([]byte("{")); err == nil {
		t.Error("invalid JSON was accepted")
	}
}
