// SPDX-License-Identifier: Apache-2.0

package names

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// testResolver is a running resolver with a root directory of its own.
type testResolver struct {
	*Resolver
	t    *testing.T
	root string
}

func newResolver(t *testing.T) *testResolver {
	r := &testResolver{t: t, root: t.TempDir()}
	r.Resolver = New(Config{Root: r.root})
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() { _ = r.Run(ctx) })
	t.Cleanup(func() { cancel(); wg.Wait() })
	return r
}

// write makes a file with its directories.
func (r *testResolver) write(name, text string) {
	r.t.Helper()
	path := filepath.Join(r.root, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		r.t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		r.t.Fatal(err)
	}
}

// want waits for the first lookup of a path. Until then the name must be unknown.
func (r *testResolver) want(path, want string) {
	r.t.Helper()
	for end := time.Now().Add(30 * time.Second); ; time.Sleep(time.Millisecond) {
		got := r.Name(path).String()
		if got == want {
			return
		}
		if got != "" || time.Now().After(end) {
			r.t.Fatalf("%s: %q, want %q", path, got, want)
		}
	}
}

func scope(kind string) string { return "/system.slice/" + kind + "-" + testID + ".scope" }

func TestUnknownUntilFound(t *testing.T) {
	r := New(Config{Root: t.TempDir()}) // does not run
	if got := r.Name(scope("docker")); got != (Name{}) {
		t.Errorf("%v before the lookup", got)
	}
	if got := r.Name("/system.slice/nginx.service").String(); got != "nginx.service" {
		t.Errorf("%q", got)
	}
	// The path waits once, however often it is asked for.
	r.Name(scope("docker"))
	if n := len(r.queue); n != 1 {
		t.Errorf("%d paths wait", n)
	}
}

func TestDockerState(t *testing.T) {
	r := newResolver(t)
	r.write("var/lib/docker/containers/"+testID+"/config.v2.json", `{"StreamConfig":{},"ID":"`+testID+`","Name":"/web"}`)
	r.want(scope("docker"), "docker:web")
	r.want("/docker/"+testID, "docker:web")
	// A user can name a cgroup after that container.
	r.want("/user.slice/user-1000.slice/user@1000.service"+scope("docker"), "docker:1000/3f4e5d6c7b8a")
}

// TestDockerRootless: the state of a user's daemon is in the home directory.
func TestDockerRootless(t *testing.T) {
	r := newResolver(t)
	r.write("etc/passwd", "u:x:1000:1000::/home/u:/bin/sh\nv:x:1001:1001::/home/v:/bin/sh\n")
	r.write("home/u/.local/share/docker/containers/"+testID+"/config.v2.json", `{"Name":"/web"}`)
	long := strings.Repeat("1", 64)
	r.write("home/u/.local/share/docker/containers/"+long+"/config.v2.json", `{"Name":"/`+strings.Repeat("x", maxName+1)+`"}`)
	r.want("/user.slice/user-1000.slice/user@1000.service/user.slice/docker-"+testID+".scope", "docker:1000/web")
	r.want("/user.slice/user-1001.slice/user@1001.service/user.slice/docker-"+testID+".scope", "docker:1001/3f4e5d6c7b8a")
	r.want("/user.slice/user-1000.slice/user@1000.service/user.slice/docker-"+long+".scope", "docker:1000/111111111111")
	r.want("/docker/"+testID, "docker:3f4e5d6c7b8a") // not of the system's daemon
}

// TestBundles: what the runtime wrote into the configuration of a container names it where the
// kubelet's logs do not.
func TestBundles(t *testing.T) {
	r := newResolver(t)
	id := func(n int) string { return strings.Repeat(fmt.Sprint(n), 64) }
	task := func(space string, n int) string {
		return "run/containerd/io.containerd.runtime.v2.task/" + space + "/" + id(n) + "/config.json"
	}
	pod := "/kubepods.slice/kubepods-pod" + podLow + ".slice/cri-containerd-"
	const sandbox = `"io.kubernetes.cri.sandbox-name":"web-0","io.kubernetes.cri.sandbox-namespace":"default"`
	r.write(task("default", 0), `{}`)
	r.write(task("k8s.io", 1), `{"ociVersion":"1","annotations":{"io.kubernetes.cri.container-name":"nginx",`+sandbox+`}}`)
	r.write(task("k8s.io", 2), `{"annotations":{"io.kubernetes.cri.container-type":"sandbox",`+sandbox+`}}`)
	r.write(task("default", 3), `{"annotations":{"nerdctl/name":"shop"}}`)
	r.write("run/containers/storage/overlay-containers/"+id(4)+"/userdata/config.json",
		`{"annotations":{"io.kubernetes.pod.name":"db-0","io.kubernetes.pod.namespace":"prod","io.kubernetes.container.name":"db"}}`)
	r.write("run/containers/storage/overlay-containers/"+id(5)+"/userdata/config.json",
		`{"annotations":{"io.kubernetes.pod.name":"db-0","io.kubernetes.pod.namespace":"prod","io.kubernetes.container.name":"POD"}}`)
	for path, want := range map[string]string{
		pod + id(1) + ".scope":                      "pod:default/web-0/nginx",
		"/kubepods/pod" + testPod + "/" + id(2):     "pod:default/web-0",
		"/kubepods/pod" + testPod + "/" + id(4):     "pod:prod/db-0/db",
		"/kubepods/pod" + testPod + "/" + id(5):     "pod:prod/db-0",
		"/kubepods/pod" + testPod + "/" + id(0):     "pod:" + testPod,
		"/kubepods/pod" + testPod + "/" + id(6):     "pod:" + testPod,
		"/default/" + id(3):                         "container:shop",
		"/system.slice/nerdctl-" + id(3) + ".scope": "container:shop",
		"/system.slice/nerdctl-" + id(6) + ".scope": "container:666666666666",
	} {
		r.want(path, want)
	}
}

// TestDockerSocket: the daemon knows containers whose state is elsewhere. Only a socket of root
// is asked.
func TestDockerSocket(t *testing.T) {
	r := newResolver(t)
	r.write("run/x", "")
	l, err := net.Listen("unix", filepath.Join(r.root, dockerSocket))
	if err != nil {
		t.Fatal(err)
	}
	var asked []string
	var mu sync.Mutex
	s := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		asked = append(asked, req.URL.Path)
		fmt.Fprint(w, `{"Id":"x","Name":"/db"}`)
	})}
	go func() { _ = s.Serve(l) }()
	defer s.Close()
	want := "docker:db"
	if os.Getuid() != 0 {
		want = "docker:3f4e5d6c7b8a"
	}
	r.want(scope("docker"), want)
	mu.Lock()
	defer mu.Unlock()
	if got := strings.Join(asked, " "); (got == "/containers/"+testID+"/json") != (os.Getuid() == 0) {
		t.Errorf("the daemon was asked for %q", got)
	}
}

func TestDockerSocketOfAnother(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root, to give the socket to another user")
	}
	r := newResolver(t)
	r.write("run/x", "")
	l, err := net.Listen("unix", filepath.Join(r.root, dockerSocket))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if err := os.Chown(filepath.Join(r.root, dockerSocket), 1000, 0); err != nil {
		t.Fatal(err)
	}
	r.want(scope("docker"), "docker:3f4e5d6c7b8a")
}

func TestPodman(t *testing.T) {
	r := newResolver(t)
	other := strings.Repeat("1", 64)
	r.write("var/lib/containers/storage/overlay-containers/containers.json",
		`[{"id":"`+other+`","names":["a"]},{"id":"`+testID+`","names":["db","alias"],"layer":"x"}]`)
	third := strings.Repeat("2", 64)
	r.write("var/lib/containers/storage/overlay-containers/volatile-containers.json", `[{"id":"`+third+`","names":["once"]}]`)
	r.want("/machine.slice/libpod-"+testID+".scope/container", "podman:db")
	r.want("/machine.slice/libpod-"+third+".scope", "podman:once")
	r.want("/machine.slice/libpod-"+strings.Repeat("3", 64)+".scope", "podman:333333333333")
}

// TestPodmanRootless: the storage of a user is read for cgroups of that user only, and links
// out of the home directory, pipes and broken files give no name.
func TestPodmanRootless(t *testing.T) {
	r := newResolver(t)
	id := func(n int) string { return strings.Repeat(fmt.Sprint(n), 64) }
	at := func(uid, n int) string {
		return fmt.Sprintf("/user.slice/user-%d.slice/user@%[1]d.service/user.slice/libpod-%s.scope", uid, id(n))
	}
	passwd := "root:x:0:0:root:/root:/bin/sh\n"
	for uid := 1000; uid < 1005; uid++ {
		passwd += fmt.Sprintf("u%d:x:%[1]d:%[1]d::/home/u%[1]d:/bin/sh\n", uid)
	}
	r.write("etc/passwd", passwd)
	const list = ".local/share/containers/storage/overlay-containers/containers.json"
	r.write("home/u1000/"+list, `[{"id":"`+id(1)+`","names":["mine"]},{"id":"`+testID+`","names":["forged"]}]`)
	r.write("var/lib/containers/storage/overlay-containers/containers.json", `[{"id":"`+testID+`","names":["real"]}]`)
	r.write("home/u1001/x", "")
	r.write("home/u1002/"+filepath.Dir(list)+"/x", "")
	r.write("home/u1003/"+list, "[{")
	if err := os.Symlink("../u1000/.local", filepath.Join(r.root, "home/u1001/.local")); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mkfifo(filepath.Join(r.root, "home/u1002", list), 0o600); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{
		at(1000, 1): "podman:1000/mine",
		at(1000, 2): "podman:1000/222222222222",
		at(1001, 1): "podman:1001/111111111111", // a link out of the home directory
		at(1002, 1): "podman:1002/111111111111", // a pipe
		at(1003, 1): "podman:1003/111111111111", // not JSON
		at(1004, 1): "podman:1004/111111111111", // no home directory
		at(1005, 1): "podman:1005/111111111111", // not in /etc/passwd
		"/machine.slice/libpod-" + testID + ".scope":                                           "podman:real",
		"/user.slice/user-1001.slice/user@1001.service/user.slice/libpod-" + testID + ".scope": "podman:1001/3f4e5d6c7b8a",
	} {
		r.want(path, want)
	}
}

func TestPods(t *testing.T) {
	r := newResolver(t)
	pod := "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod" + podLow + ".slice"
	r.write("var/log/pods/default_web-0_"+testPod+"/nginx/0.log", "")
	r.write("var/log/pods/default_web-1_"+strings.Repeat("0", 32)+"/nginx/0.log", "")
	r.want(pod, "pod:default/web-0")
	r.want(pod+"/crio-"+testID+".scope", "pod:default/web-0")
	r.write("var/log/containers/web-0_default_nginx-"+testID+".log", "")
	r.want(pod+"/cri-containerd-"+testID+".scope", "pod:default/web-0/nginx")
	r.want("/kubepods/pod"+strings.Repeat("f", 32)+"/"+testID, "pod:"+strings.Repeat("f", 32))
}

// TestRefresh: a renamed container gets its new name, and a removed one keeps its last.
func TestRefresh(t *testing.T) {
	r := newResolver(t)
	file := "var/lib/docker/containers/" + testID + "/config.v2.json"
	r.write(file, `{"Name":"/old"}`)
	r.want(scope("docker"), "docker:old")
	r.write(file, `{"Name":"/new"}`)
	expire := func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.names[scope("docker")].fresh = time.Time{}
	}
	expire()
	for r.Name(scope("docker")).String() != "docker:new" {
		time.Sleep(time.Millisecond)
	}
	if err := os.RemoveAll(filepath.Join(r.root, "var")); err != nil {
		t.Fatal(err)
	}
	expire()
	looked := func() bool {
		r.mu.Lock()
		defer r.mu.Unlock()
		return !r.names[scope("docker")].fresh.IsZero()
	}
	for !looked() {
		if got := r.Name(scope("docker")).String(); got != "docker:new" {
			t.Fatal(got)
		}
		time.Sleep(time.Millisecond)
	}
	r.want(scope("docker"), "docker:new")
}

// TestArrived: the name is still known when the container is removed before anyone asks.
func TestArrived(t *testing.T) {
	r := newResolver(t)
	r.write("var/lib/docker/containers/"+testID+"/config.v2.json", `{"Name":"/web"}`)
	r.Arrived(scope("docker"))
	known := func() bool {
		r.mu.Lock()
		defer r.mu.Unlock()
		e := r.names[scope("docker")]
		return e != nil && e.name != Name{}
	}
	for !known() {
		time.Sleep(time.Millisecond)
	}
	if err := os.RemoveAll(filepath.Join(r.root, "var")); err != nil {
		t.Fatal(err)
	}
	r.want(scope("docker"), "docker:web")
}

func BenchmarkName(b *testing.B) {
	r := New(Config{Root: b.TempDir()})
	b.ReportAllocs()
	for b.Loop() {
		r.Name("/system.slice/nginx.service")
	}
}

// TestBounded: any number of paths costs a bounded amount of memory, and asking never blocks.
func TestBounded(t *testing.T) {
	r := New(Config{Root: t.TempDir()}) // does not run: the queue fills
	for i := range 3 * maxNames {
		r.Name(fmt.Sprintf("/docker/%064x", i))
	}
	if n := len(r.names); n != maxNames {
		t.Errorf("%d names", n)
	}
	for range 2 * maxQueue {
		r.Arrived("/a")
	}
	if n, m := len(r.queue), len(r.seen); n != maxQueue || m != maxQueue {
		t.Errorf("%d and %d paths wait", n, m)
	}
}
