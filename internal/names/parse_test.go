// SPDX-License-Identifier: Apache-2.0

package names

import (
	"strings"
	"testing"
)

const (
	testID  = "3f4e5d6c7b8a90123f4e5d6c7b8a90123f4e5d6c7b8a90123f4e5d6c7b8a9012"
	testPod = "0a1b2c3d-4e5f-6071-8293-a4b5c6d7e8f9"
	podLow  = "0a1b2c3d_4e5f_6071_8293_a4b5c6d7e8f9"
	static  = "5f2a8b1c9d3e4f607182930a4b5c6d7e" // the UID of a static pod
)

// TestParse: paths as they are on real machines.
func TestParse(t *testing.T) {
	for _, tc := range []struct {
		path string
		want Cgroup
	}{
		{"/", Cgroup{}},
		{"", Cgroup{}},
		{"/init.scope", Cgroup{Kind: Unit, Name: "init.scope"}},
		{"/system.slice", Cgroup{Kind: Unit, Name: "system.slice"}},
		{"/system.slice/(removed)", Cgroup{}},
		{"/(removed)", Cgroup{}},
		{"/system.slice/nginx.service", Cgroup{Kind: Unit, Name: "nginx.service"}},
		{"/system.slice/nginx.service/(removed)", Cgroup{Kind: Unit, Name: "nginx.service"}},
		{"/system.slice/system-getty.slice/getty@tty1.service", Cgroup{Kind: Unit, Name: "getty@tty1.service"}},
		{`/system.slice/system-systemd\x2dfsck.slice/systemd-fsck@dev-disk-by\x2duuid-12\x2dab.service`, Cgroup{Kind: Unit, Name: "systemd-fsck@dev-disk-by-uuid-12-ab.service"}},
		{`/system.slice/a\x1bb\xff\x2.service`, Cgroup{Kind: Unit, Name: `a\x1bb\xff\x2.service`}},
		{"/system.slice/systemd-udevd.service/udev", Cgroup{Kind: Unit, Name: "systemd-udevd.service"}},
		{"/system.slice/run-u17.scope", Cgroup{Kind: Unit, Name: "run-u17.scope"}},
		{"/system.slice/dbus.socket", Cgroup{Kind: Unit, Name: "dbus.socket"}},

		{"/system.slice/docker-" + testID + ".scope", Cgroup{Kind: Docker, ID: testID}},
		{"/batch.slice/batch-night.slice/docker-" + testID + ".scope", Cgroup{Kind: Docker, ID: testID}},
		{"/docker/" + testID, Cgroup{Kind: Docker, ID: testID}},
		{"/docker/" + testID + "/system.slice/nginx.service", Cgroup{Kind: Docker, ID: testID}},
		{"/docker/" + testID + "/docker/" + strings.Repeat("0", 64), Cgroup{Kind: Docker, ID: testID}},
		{"/default/" + testID, Cgroup{Kind: Container, ID: testID}},
		{"/k8s.io/" + testID + "/x", Cgroup{Kind: Container, ID: testID}},
		{"/default/x", Cgroup{}},
		{"/docker/buildx/x", Cgroup{}},
		{"/docker/" + testID[:12], Cgroup{}},
		{"/system.slice/docker-" + testID[:12] + ".scope", Cgroup{Kind: Unit, Name: "docker-" + testID[:12] + ".scope"}},
		{"/system.slice/docker.service", Cgroup{Kind: Unit, Name: "docker.service"}},

		{"/machine.slice/libpod-" + testID + ".scope", Cgroup{Kind: Podman, ID: testID}},
		{"/machine.slice/libpod-" + testID + ".scope/container", Cgroup{Kind: Podman, ID: testID}},
		{"/machine.slice/machine-libpod_pod_" + testID + ".slice/libpod-" + testID + ".scope", Cgroup{Kind: Podman, ID: testID}},
		{"/machine.slice/libpod-conmon-" + testID + ".scope", Cgroup{Kind: Unit, Name: "libpod-conmon-" + testID + ".scope"}},
		{"/libpod_parent/libpod-" + testID, Cgroup{Kind: Podman, ID: testID}},
		{"/system.slice/web.service/libpod-payload-" + testID, Cgroup{Kind: Unit, Name: "web.service"}}, // Quadlet

		{"/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod" + podLow + ".slice/cri-containerd-" + testID + ".scope", Cgroup{Kind: Pod, Pod: testPod, ID: testID}},
		{"/kubepods.slice/kubepods-pod" + podLow + ".slice/crio-" + testID + ".scope/container", Cgroup{Kind: Pod, Pod: testPod, ID: testID}},
		{"/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod" + podLow + ".slice/docker-" + testID + ".scope", Cgroup{Kind: Pod, Pod: testPod, ID: testID}},
		{"/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-burstable.slice/kubelet-kubepods-burstable-pod" + static + ".slice/cri-containerd-" + testID + ".scope", Cgroup{Kind: Pod, Pod: static, ID: testID}},
		{"/node_pods.slice/node_pods-kubepods.slice/node_pods-kubepods-burstable.slice/node_pods-kubepods-burstable-pod" + podLow + ".slice/cri-containerd-" + testID + ".scope", Cgroup{Kind: Pod, Pod: testPod, ID: testID}},
		{"/K8s.slice/K8s-work.load.slice/K8s-work.load-kubepods.slice/K8s-work.load-kubepods-pod" + podLow + ".slice/crio-" + testID + ".scope", Cgroup{Kind: Pod, Pod: testPod, ID: testID}},
		{"/notkubepods.slice/notkubepods-pod" + podLow + ".slice/x.service", Cgroup{Kind: Unit, Name: "x.service"}},
		{"/kubepods.slice/kubepods-pod" + podLow + ".slice", Cgroup{Kind: Pod, Pod: testPod}},
		{"/kubepods/burstable/pod" + testPod + "/" + testID, Cgroup{Kind: Pod, Pod: testPod, ID: testID}},
		{"/kubepods/pod" + testPod + "/" + testID + "/x", Cgroup{Kind: Pod, Pod: testPod, ID: testID}},
		{"/kubelet/kubepods/besteffort/pod" + testPod, Cgroup{Kind: Pod, Pod: testPod}},
		{"/system.slice/cri-containerd-" + testID + ".scope", Cgroup{Kind: Container, ID: testID}},
		{"/system.slice/nerdctl-" + testID + ".scope", Cgroup{Kind: Container, ID: testID}},

		{`/machine.slice/machine-qemu\x2d1\x2ddebian.scope/libvirt/emulator`, Cgroup{Kind: Machine, Name: "qemu-1-debian"}},
		{"/machine.slice/systemd-nspawn@web.service/payload/system.slice/nginx.service", Cgroup{Kind: Unit, Name: "systemd-nspawn@web.service"}},
		{"/lxc.payload.web/system.slice/nginx.service", Cgroup{Kind: Container, Name: "web"}},
		{"/lxc/web", Cgroup{Kind: Container, Name: "web"}},
		{"/sotto-exec-4711", Cgroup{Kind: Exec, Name: "sotto-exec-4711"}},
		{"/system.slice/sotto-exec-4711", Cgroup{Kind: Exec, Name: "sotto-exec-4711"}},
		{"/something/else", Cgroup{}},

		{"/user.slice/user-1000.slice", Cgroup{Kind: User, Name: "1000", User: "1000"}},
		{"/user.slice/user-1000.slice/session-3.scope", Cgroup{Kind: User, Name: "1000/session-3.scope", User: "1000"}},
		{"/user.slice/user-1000.slice/user@1000.service/init.scope", Cgroup{Kind: User, Name: "1000/init.scope", User: "1000"}},
		{`/user.slice/user-1000.slice/user@1000.service/app.slice/app-org.gnome.Terminal.slice/vte\x2dspawn-1.scope`, Cgroup{Kind: User, Name: "1000/vte-spawn-1.scope", User: "1000"}},
		{"/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-" + testID + ".scope/container", Cgroup{Kind: Podman, ID: testID, User: "1000"}},
		{"/user.slice/user-1000.slice/user@1000.service/app.slice/docker.service", Cgroup{Kind: User, Name: "1000/docker.service", User: "1000"}},
		// Names that a user made up.
		{"/user.slice/user-1000.slice/user@1000.service/docker-" + testID + ".scope", Cgroup{Kind: Docker, ID: testID, User: "1000"}},
		{"/user.slice/user-1000.slice/user@1000.service/docker/" + testID, Cgroup{Kind: User, Name: "1000", User: "1000"}},
		{"/user.slice/user-1000.slice/user@1000.service/kubepods-pod" + podLow + ".slice/cri-containerd-" + testID + ".scope", Cgroup{Kind: User, Name: "1000", User: "1000"}},
		{"/user.slice/user-1000.slice/user@1000.service/sotto-exec-1", Cgroup{Kind: User, Name: "1000/sotto-exec-1", User: "1000"}},
		{"/system.slice/app.service/docker-" + testID + ".scope", Cgroup{Kind: Unit, Name: "app.service"}},
	} {
		if got := Parse(tc.path); got != tc.want {
			t.Errorf("%s:\ngot  %+v\nwant %+v", tc.path, got, tc.want)
		}
	}
}

func TestString(t *testing.T) {
	for path, want := range map[string]string{
		"/":                              "",
		"/system.slice/nginx.service":    "nginx.service",
		"/docker/" + testID:              "docker:3f4e5d6c7b8a",
		"/kubepods/pod" + testPod:        "pod:" + testPod,
		"/user.slice/user-1000.slice":    "user:1000",
		"/machine.slice/machine-a.scope": "machine:a",
		"/user.slice/user-7.slice/user@7.service/user.slice/libpod-" + testID + ".scope": "podman:7/3f4e5d6c7b8a",
	} {
		if got := Parse(path).label().String(); got != want {
			t.Errorf("%s: %q, want %q", path, got, want)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add("/system.slice/docker-" + testID + ".scope")
	f.Add("/user.slice/user-1000.slice/user@1000.service/a")
	f.Fuzz(func(t *testing.T, path string) {
		c := Parse(path)
		if n := c.label(); (n.Kind == "") != (n.Name == "") || n.Kind != c.Kind {
			t.Errorf("%+v is called %+v", c, n)
		}
		if strings.HasPrefix(path, "/user.slice/user-1000.slice/") && !strings.HasPrefix(c.label().Name, "1000") {
			t.Errorf("%+v is called %v", c, c.label())
		}
	})
}
